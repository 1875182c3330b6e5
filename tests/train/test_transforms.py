import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import TrainSettings
from train.transforms import View, flipped, padded, random_crop, random_size, resized, weak_view

sides = st.integers(5, 70)


def mask_colored_view(height, width, seed=0):
    """An image whose red channel is 100 in class 0 and 200 in class 1, in large blocks; nowhere black."""
    blocks = np.random.default_rng(seed).integers(0, 2, (3, 3)).astype(np.uint8)
    mask = np.kron(blocks, np.ones((-(-height // 3), -(-width // 3)), np.uint8))[:height, :width]
    image = np.full((height, width, 3), 50, np.uint8)
    image[..., 0] = 100 + 100 * mask
    return View(image, mask)


def test_the_long_side_is_an_integer_of_the_range_and_the_aspect_is_kept():
    rng = random.Random(0)
    sizes = {random_size((100, 50), rng, (0.5, 2.0)) for _ in range(5000)}
    assert {height for height, _ in sizes} == set(range(50, 201))
    assert all(width == int(height / 2 + 0.5) for height, width in sizes)


def test_a_range_of_scales_that_runs_backwards_is_refused():
    with pytest.raises(ValueError, match=r"scale is \[2\.0, 0\.5\], smallest first; write \[0\.5, 2\.0\]"):
        TrainSettings(scale=[2.0, 0.5])


def test_size_one_keeps_an_image_as_it_is():
    assert random_size((37, 91), random.Random(0), (1.0, 1.0)) == (37, 91)


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 70), st.integers(30, 70), st.integers(0, 10_000))
def test_image_and_target_go_through_the_same_geometry(height, width, seed):
    view = weak_view(mask_colored_view(height, width, seed), random.Random(seed), 32, (0.5, 2.0), 0.5)
    assert view.image.shape == (32, 32, 3)
    assert view.target.shape == (32, 32)
    red, target = view.image[..., 0], view.target
    far_from_edges = (red == 100) | (red == 200)  # bilinear resampling mixes the colours at edges only
    real = target != 255
    assert np.array_equal(target[real & far_from_edges], (red[real & far_from_edges] == 200).astype(np.uint8))
    assert far_from_edges[real].mean() > 0.3


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(0, 10_000))
def test_padding_is_black_and_ignored_and_nothing_else_is(height, width, seed):
    view = weak_view(mask_colored_view(height, width, seed), random.Random(seed), 48, (0.5, 2.0), 0.5)
    assert np.array_equal(view.image.any(axis=2), view.target != 255)


def test_pads_at_the_right_and_at_the_bottom():
    view = padded(mask_colored_view(4, 6), 8)
    assert (view.target[:4, :6] != 255).all()
    assert (view.target[4:] == 255).all()
    assert (view.target[:, 6:] == 255).all()


def test_crops_at_every_place_where_the_window_fits():
    image = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5)
    view = View(np.repeat(image[..., None], 3, axis=2), image)
    corners = {int(random_crop(view, random.Random(seed), 4).target[0, 0]) for seed in range(200)}
    assert corners == {5 * top + left for top in range(3) for left in range(2)}


def test_flips_both_and_twice_is_nothing():
    view = mask_colored_view(9, 14)
    once = flipped(view)
    assert np.array_equal(once.image[:, 0], view.image[:, -1])
    assert np.array_equal(once.target[:, 0], view.target[:, -1])
    assert np.array_equal(flipped(once).target, view.target)


def test_flips_with_the_probability_that_is_set():
    view = mask_colored_view(32, 32, seed=4)
    for flip, share in ((0.0, 0.0), (1.0, 1.0), (0.3, 0.3)):
        views = [weak_view(view, random.Random(seed), 32, (1.0, 1.0), flip) for seed in range(600)]
        assert np.mean([not np.array_equal(v.target, view.target) for v in views]) == pytest.approx(share, abs=0.06)


def test_resizing_a_target_invents_no_class():
    target = np.array([[0, 7], [255, 3]], np.uint8)
    view = resized(View(np.zeros((2, 2, 3), np.uint8), target), (31, 17))
    assert set(np.unique(view.target)) == {0, 3, 7, 255}


def test_the_same_generator_state_gives_the_same_view():
    views = [weak_view(mask_colored_view(40, 60), random.Random("key"), 32, (0.5, 2.0), 0.5) for _ in range(2)]
    assert np.array_equal(views[0].image, views[1].image)
    assert np.array_equal(views[0].target, views[1].target)

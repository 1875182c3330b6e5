import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets import IGNORE_INDEX, resize_nearest
from train.augment import Geometry, draw_geometry, weak_view, weak_views
from train.augment.weak import resized_in_float

torch.set_num_threads(1)
sides = st.integers(5, 70)
seeds = st.integers(0, 10_000)


def noise(height, width, seed=0):
    """uint8 [3, H, W] and uint8 [H, W], without black or ignored pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 256, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(image), torch.from_numpy(rng.integers(0, 255, (height, width), dtype=np.uint8))


def mask_colored(height, width, seed=0):
    """An image whose red channel is 100 in class 0 and 200 in class 1, in large blocks, without black pixels."""
    blocks = np.random.default_rng(seed).integers(0, 2, (3, 3)).astype(np.uint8)
    mask = np.kron(blocks, np.ones((-(-height // 3), -(-width // 3)), np.uint8))[:height, :width]
    image = np.full((3, height, width), 50, np.uint8)
    image[0] = 100 + 100 * mask
    return torch.from_numpy(image), torch.from_numpy(mask)


def drawn(seed, size, crop, scale=(0.5, 2.0), flip=0.5):
    return draw_geometry(random.Random(seed), size, crop, scale, flip)


def test_the_long_side_is_an_integer_of_the_range_and_the_aspect_is_kept():
    rng = random.Random(0)
    geometries = [draw_geometry(rng, (100, 50), 20, (0.5, 2.0), 0.5) for _ in range(5000)]
    assert {geometry.height for geometry in geometries} == set(range(50, 201))
    assert all(geometry.width == int(geometry.height / 2 + 0.5) for geometry in geometries)
    assert np.mean([geometry.height for geometry in geometries]) == pytest.approx(125, abs=2)


def test_scale_one_keeps_the_size():
    assert drawn(0, (37, 91), 20, (1.0, 1.0))[:2] == (37, 91)


def test_crops_at_every_corner_where_the_window_fits():
    corners = {drawn(seed, (6, 5), 4, (1.0, 1.0))[2:4] for seed in range(200)}
    assert corners == {(top, left) for top in range(3) for left in range(2)}


def test_an_image_smaller_than_the_crop_stays_in_the_corner():
    assert {drawn(seed, (6, 50), 20, (1.0, 1.0)).top for seed in range(50)} == {0}


def test_flips_with_the_probability_that_is_set():
    for probability in (0.0, 1.0, 0.3):
        flips = [drawn(seed, (32, 32), 32, flip=probability).flip for seed in range(2000)]
        assert np.mean(flips) == pytest.approx(probability, abs=0.04)


@settings(max_examples=60, deadline=None)
@given(sides, sides, seeds)
def test_a_window_lies_inside_the_padded_image(height, width, seed):
    geometry = drawn(seed, (height, width), 48)
    assert 0 <= geometry.top <= max(0, geometry.height - 48)
    assert 0 <= geometry.left <= max(0, geometry.width - 48)


@settings(max_examples=80, deadline=None)
@given(sides, sides, seeds)
def test_agrees_with_pillow_and_with_resize_nearest(height, width, seed):
    image, target = noise(height, width, seed)
    geometry = drawn(seed, (height, width), 48, flip=0.0)
    view, view_target = weak_view(image, target, geometry, 48)
    size = geometry[:2]
    whole = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    window = np.s_[geometry.top : geometry.top + 48, geometry.left : geometry.left + 48]
    wanted, wanted_target = np.asarray(whole)[window], resize_nearest(target.numpy(), size)[window]
    rows, columns = wanted_target.shape
    levels = view[:, :rows, :columns].permute(1, 2, 0).numpy().astype(int) - wanted
    assert np.abs(levels).max() <= 1
    assert np.array_equal(view_target[:rows, :columns].numpy(), wanted_target)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, seeds)
def test_masks_equal_pillows_except_where_a_centre_falls_between_two_pixels(height, width, new_height, new_width, seed):
    # There the rounding errors of a running sum decide in Pillow; about 0.3 % of the pixels of a 500 x 375 mask.
    target = noise(height, width, seed)[1]
    crop = max(new_height, new_width)
    ours = weak_view(*noise(height, width, seed), Geometry(new_height, new_width, 0, 0, False), crop)[1]
    pillows = Image.fromarray(target.numpy()).resize((new_width, new_height), Image.Resampling.NEAREST)
    rows = (2 * np.arange(new_height) + 1) * height % (2 * new_height) != 0
    columns = (2 * np.arange(new_width) + 1) * width % (2 * new_width) != 0
    clear = np.ix_(rows, columns)
    assert np.array_equal(ours[:new_height, :new_width].numpy()[clear], np.asarray(pillows)[clear])


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 70), st.integers(30, 70), seeds)
def test_image_and_target_have_the_same_geometry(height, width, seed):
    view, target = weak_view(*mask_colored(height, width, seed), drawn(seed, (height, width), 32), 32)
    red = view[0]
    far_from_edges = (red == 100) | (red == 200)  # bilinear resampling mixes the colours at edges only
    real = target != IGNORE_INDEX
    assert torch.equal(target[real & far_from_edges], (red[real & far_from_edges] == 200).to(torch.uint8))
    assert far_from_edges[real].float().mean() > 0.3


@settings(max_examples=60, deadline=None)
@given(sides, sides, seeds)
def test_padding_is_black_and_ignored_and_nothing_else_is(height, width, seed):
    view, target = weak_view(*mask_colored(height, width, seed), drawn(seed, (height, width), 48), 48)
    assert view.dtype == target.dtype == torch.uint8
    assert view.shape == (3, 48, 48)
    assert torch.equal(view.any(dim=0), target != IGNORE_INDEX)


def test_pads_at_the_right_and_at_the_bottom_and_after_a_flip_at_the_left():
    image, target = noise(4, 6)
    straight = weak_view(image, target, Geometry(4, 6, 0, 0, False), 8)
    assert torch.equal(straight[0][:, :4, :6], image)
    assert torch.equal(straight[1][:4, :6], target)
    assert (straight[1][4:] == IGNORE_INDEX).all()
    assert (straight[1][:, 6:] == IGNORE_INDEX).all()
    mirrored = weak_view(image, target, Geometry(4, 6, 0, 0, True), 8)
    assert torch.equal(mirrored[0], straight[0].flip(-1))
    assert torch.equal(mirrored[1], straight[1].flip(-1))


def test_a_geometry_that_changes_nothing_changes_nothing():
    image, target = noise(33, 33)
    view, view_target = weak_view(image, target, Geometry(33, 33, 0, 0, False), 33)
    assert torch.equal(view, image)
    assert torch.equal(view_target, target)


def test_resizing_a_target_adds_no_class():
    target = torch.tensor([[0, 7], [IGNORE_INDEX, 3]], dtype=torch.uint8)
    view = weak_view(torch.zeros(3, 2, 2, dtype=torch.uint8), target, Geometry(31, 17, 0, 0, False), 40)[1]
    assert set(view[:31, :17].unique().tolist()) == {0, 3, 7, IGNORE_INDEX}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=4), seeds)
def test_a_batch_gives_the_same_views_as_its_images_one_by_one(sizes, seed):
    images, targets = zip(*(noise(*size, seed + number) for number, size in enumerate(sizes)), strict=True)
    geometries = [drawn(seed + number, size, 40) for number, size in enumerate(sizes)]
    views, view_targets = weak_views(images, targets, geometries, 40)
    for number, geometry in enumerate(geometries):
        view, view_target = weak_view(images[number], targets[number], geometry, 40)
        assert torch.equal(views[number], view)
        assert torch.equal(view_targets[number], view_target)


@settings(max_examples=30, deadline=None)
@given(sides, sides, sides, sides, seeds)
def test_uint8_and_float_resizing_differ_by_one_level_at_most(height, width, new_height, new_width, seed):
    image, target = noise(height, width, seed)
    side = max(new_height, new_width)
    view = weak_view(image, target, Geometry(new_height, new_width, 0, 0, False), side)[0]
    in_float = resized_in_float(image, (new_height, new_width))
    assert in_float.dtype == torch.uint8
    apart = view[:, :new_height, :new_width].float() - in_float
    assert apart.abs().max() <= 1
    assert abs(apart.mean()) < 0.3  # rounded, not cut off


def test_no_step_waits_for_a_value_of_the_device():
    image, target = (tensor.to("meta") for tensor in noise(40, 50))  # a device without values
    views, targets = weak_views([image] * 2, [target] * 2, [drawn(seed, (40, 50), 32) for seed in range(2)], 32)
    assert views.shape == (2, 3, 32, 32)
    assert targets.shape == (2, 32, 32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_views_as_a_cpu():
    image, target = noise(60, 45)
    for seed in range(20):
        geometry = drawn(seed, (60, 45), 48)
        view, view_target = weak_view(image, target, geometry, 48)
        on_gpu, target_on_gpu = weak_view(image.cuda(), target.cuda(), geometry, 48)
        assert (view.int() - on_gpu.cpu().int()).abs().max() <= 1
        assert torch.equal(view_target, target_on_gpu.cpu())

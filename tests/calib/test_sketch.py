"""Sketches of the largest scores: merged in any way they are the sketch of all images, and no larger than needed."""

import itertools
from functools import reduce

import dask
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calib import (
    conformal_rank,
    merge_sketches,
    pixel_quantile,
    sketch_quantile,
    sketch_scores,
    sketch_size,
)
from calib.sketch import Others, merge_all, order_statistics

ALPHAS = [0.01, 0.05, 0.07, 0.1, 0.15, 0.3, 0.5, 0.9]
METHODS = ["exact", "paper"]


def random_scores(rng, shape, void=0.2):
    scores = rng.random(shape, dtype=np.float32)
    scores[rng.random(shape) < void] = np.nan
    return scores


def assert_same_bytes(first, second):
    assert [array.tobytes() for array in first] == [array.tobytes() for array in second]
    assert [array.dtype for array in first] == [array.dtype for array in second]


def test_keeps_the_largest_scores_in_order_and_counts_all():
    scores = np.float32([[0.2, np.nan], [np.nan, np.nan], [0.7, np.nan], [0.4, 0.1]])[:, np.newaxis]
    sketch = sketch_scores(scores, 2)
    assert sketch.largest.tolist() == [[[np.float32(0.4), np.float32(0.7)], [-np.inf, np.float32(0.1)]]]
    assert sketch.num_valid.tolist() == [[3, 1]]
    assert (sketch.largest.dtype, sketch.num_valid.dtype) == (np.float32, np.int32)


@st.composite
def score_maps(draw):
    """Scores of 1 to 14 images: distinct or tied, voids, locations that are void throughout."""
    shape = draw(st.integers(1, 14)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tied = rng.choice(np.float32([0, 0.1, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1]), size=shape)
    scores = tied if draw(st.booleans()) else rng.random(shape, dtype=np.float32)
    scores[rng.random(shape) < draw(st.sampled_from([0, 0.3, 0.9]))] = np.nan
    return scores


@given(score_maps(), st.sampled_from(ALPHAS), st.sampled_from(METHODS), st.data())
def test_any_partition_in_any_order_merges_into_the_sketch_of_all_images(scores, alpha, method, data):
    order = data.draw(st.permutations(range(len(scores))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=4)))
    size = sketch_size(len(scores), alpha, method)
    sketches = [sketch_scores(block, size) for block in np.split(scores[order], cuts)]
    merged = merge_all(data.draw(st.permutations(sketches)), size)
    assert_same_bytes(merged, sketch_scores(scores, size))
    assert sketch_quantile(merged, alpha, method).tobytes() == pixel_quantile(scores, alpha, method).tobytes()


@settings(max_examples=50, deadline=None)
@given(score_maps(), st.sampled_from(METHODS))
def test_a_sketch_for_the_largest_alpha_answers_the_smaller_ones(scores, method):
    sketch = sketch_scores(scores, max(sketch_size(len(scores), alpha, method) for alpha in ALPHAS))
    for alpha in ALPHAS:
        assert sketch_quantile(sketch, alpha, method).tobytes() == pixel_quantile(scores, alpha, method).tobytes()


@pytest.mark.parametrize("num_images", [1, 2, 19, 92, 93])
def test_the_size_is_enough_for_any_number_of_voids_and_not_larger(num_images):
    """Location n has n scores; with one score fewer a location, one of the thresholds comes out differently."""
    scores = np.full((num_images, 1, num_images + 1), np.nan, dtype=np.float32)
    for n in range(num_images + 1):
        scores[:n, 0, n] = np.arange(n, 0, -1)
    full = sketch_scores(scores, num_images)
    for alpha, method in itertools.product(ALPHAS, METHODS):
        size, expected = sketch_size(num_images, alpha, method), sketch_quantile(full, alpha, method).tobytes()
        assert sketch_quantile(sketch_scores(scores, size), alpha, method).tobytes() == expected, (alpha, method)
        if size > 1:
            smaller = sketch_scores(scores, size - 1)
            assert sketch_quantile(smaller, alpha, method).tobytes() != expected, (alpha, method)


@pytest.mark.parametrize(("num_images", "alpha", "size"), [(19, 0.05, 1), (92, 0.05, 4), (99, 0.1, 10), (9, 0.05, 1)])
def test_the_size_is_the_floor_of_l_plus_1_times_alpha_and_at_least_1(num_images, alpha, size):
    assert sketch_size(num_images, alpha, "exact") == size


def test_the_memory_of_a_sketch_does_not_grow_with_the_images():
    rng, size = np.random.default_rng(0), sketch_size(92, 0.05, "exact")
    grown = sketch_scores(random_scores(rng, (size, 5, 6)), size)
    for num_images in (1, 50, 500):
        grown = merge_sketches(grown, sketch_scores(random_scores(rng, (num_images, 5, 6)), size), size)
        assert [array.shape for array in grown] == [(5, 6, size), (5, 6)]
        assert sum(array.nbytes for array in grown) == 5 * 6 * (4 * size + 4)
        assert all(array.base is None or array.base.nbytes == array.nbytes for array in grown)  # holds on to no more


def test_holds_the_scores_that_topk_finds():
    scores = random_scores(np.random.default_rng(0), (40, 71, 83))
    filled = torch.from_numpy(np.nan_to_num(scores, nan=-np.inf))
    largest = torch.topk(filled, 7, dim=0).values.flip(0).movedim(0, -1)
    np.testing.assert_array_equal(sketch_scores(scores, 7).largest, largest.numpy())


@pytest.mark.parametrize("alpha", [0.05, 0.07, 0.15, 0.3])
def test_agrees_with_kthvalue_on_full_maps_to_the_last_bit(alpha):
    scores = np.random.default_rng(0).random((92, 71, 83), dtype=np.float32)
    kth = torch.kthvalue(torch.from_numpy(scores), conformal_rank(92, alpha), dim=0).values
    halves = [sketch_scores(half, sketch_size(92, alpha, "exact")) for half in np.array_split(scores, 2)]
    merged = merge_all(halves, sketch_size(92, alpha, "exact"))
    assert sketch_quantile(merged, alpha).tobytes() == kth.numpy().tobytes()


def merge_as_a_tree(sketches, merge):
    while len(sketches) > 1:
        sketches = [reduce(merge, sketches[start : start + 3]) for start in range(0, len(sketches), 3)]
    return sketches[0]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("images_per_block", [1, 4, 11])
def test_a_tree_of_dask_tasks_agrees_with_numpy(scheduler, images_per_block):
    scores = random_scores(np.random.default_rng(0), (30, 66, 65), void=0.4)
    size = sketch_size(30, 0.15, "exact")
    merge = dask.delayed(lambda first, second: merge_sketches(first, second, size))
    blocks = [scores[start : start + images_per_block] for start in range(0, 30, images_per_block)]
    tree = merge_as_a_tree([dask.delayed(sketch_scores)(block, size) for block in blocks], merge)
    merged = tree.compute(scheduler=scheduler, num_workers=2)
    assert_same_bytes(merged, sketch_scores(scores, size))
    assert sketch_quantile(merged, 0.15).tobytes() == pixel_quantile(scores, 0.15).tobytes()


def test_reads_its_scores_only():
    scores = random_scores(np.random.default_rng(0), (5, 3, 3))
    before = scores.tobytes()
    sketch = sketch_scores(scores, 2)
    contents = [array.tobytes() for array in sketch]
    merge_sketches(sketch, sketch, 3)
    sketch_quantile(sketch, 0.2)
    assert scores.tobytes() == before
    assert [array.tobytes() for array in sketch] == contents


@given(score_maps(), st.sampled_from(ALPHAS), st.sampled_from(METHODS), st.data())
def test_without_an_image_thresholds_are_those_of_the_others(scores, alpha, method, data):
    out = data.draw(st.integers(0, len(scores) - 1))
    others, is_valid = np.delete(scores, out, axis=0), ~np.isnan(scores[out])
    sketch = sketch_scores(scores, sketch_size(len(scores), alpha, method) + 1)
    order = order_statistics(np.maximum(sketch.num_valid - 1, 0), alpha, method)
    expected = pixel_quantile(others, alpha, method) if len(others) else np.full(is_valid.shape, np.nan)
    np.testing.assert_array_equal(Others.of(sketch, order).quantile(scores[out])[is_valid], expected[is_valid])

"""Paired differences of mIoU: a case by hand, and an independent bootstrap, image by image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.pairs import difference


def areas_of(confusions):
    """int64 [N, 3, K] of [N, K, K], rows = true class."""
    return np.stack([np.stack([np.diag(c), c.sum(axis=1), c.sum(axis=0)]) for c in confusions])


def random_areas(rng, num, classes=3):
    return areas_of(rng.integers(0, 50, (num, classes, classes)))


def test_a_difference_by_hand():
    right, wrong = [[4, 0], [0, 4]], [[4, 0], [4, 0]]  # IoU 1 and 1; 4/8 and 0
    perfect, half = areas_of(np.array([right] * 5)), areas_of(np.array([wrong] * 5))
    assert difference([perfect], [half], "skip") == pytest.approx((0.75, 0.75, 0.75))


def test_images_without_a_counted_pixel_do_not_count():
    one = areas_of(np.array([[[4, 0], [0, 4]], [[0, 0], [0, 0]]]))
    assert difference([one], [one], "skip") is None


@given(st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_a_row_does_not_differ_from_itself_and_its_opposite_mirrors_it(seed):
    rng = np.random.default_rng(seed)
    row, other = ([random_areas(rng, 6) for _ in range(2)] for _ in range(2))
    assert difference(row, row, "skip") == (0.0, 0.0, 0.0)
    there, back = difference(row, other, "zero"), difference(other, row, "zero")
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)


def test_the_interval_is_that_of_resampled_images_and_seeds():
    rng = np.random.default_rng(1)
    row, other = ([random_areas(rng, 40) for _ in range(3)] for _ in range(2))

    def miou(areas):
        right, true, predicted = areas.sum(axis=0)
        return (right / (true + predicted - right)).mean()

    draws = []
    for _ in range(1500):
        images, seeds = rng.integers(40, size=40), rng.integers(3, size=3)
        draws.append(np.mean([miou(row[s][images]) - miou(other[s][images]) for s in seeds]))
    gap = difference(row, other, "skip")
    assert gap.value == pytest.approx(np.mean([miou(a) - miou(b) for a, b in zip(row, other, strict=True)]))
    width = np.subtract(*np.quantile(draws, [0.975, 0.025]))
    assert np.abs(np.array(gap[1:]) - np.quantile(draws, [0.025, 0.975])).max() < 0.15 * width


def test_units_of_images_are_drawn_whole():
    """Two units of two equal images: the difference is 0.75 in one and 0 in the other, and any mixture of them."""
    right, wrong = [[4, 0], [0, 4]], [[4, 0], [4, 0]]
    row = [areas_of(np.array([right] * 4))]
    other = [areas_of(np.array([wrong, right, wrong, right]))]
    gap = difference(row, other, "skip", unit_of_image=np.array([0, 1, 0, 1]))
    assert (gap.low, gap.high) == pytest.approx((0, 0.75))
    assert difference(row, other, "skip", unit_of_image=np.zeros(4, int)) is None

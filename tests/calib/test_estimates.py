"""Fractions over images and their differences, against numpy's quantiles of resampled images."""

import numpy as np
import pytest

from calib import compare_with_first


def test_alternatives_are_compared_with_the_first_by_resampling_images_one_by_one():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 50, (12, 3))
    union = right + rng.integers(0, 50, (12, 3))
    fraction, difference = compare_with_first(right, union, np.random.default_rng(1))
    draws = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=2000)
    resampled = [[(d * right[:, v]).sum() / (d * union[:, v]).sum() for v in range(3)] for d in draws]
    paired = np.array(resampled) - np.array(resampled)[:, :1]
    assert fraction.value == pytest.approx(right.sum(axis=0) / union.sum(axis=0))
    assert np.stack([difference.low, difference.high]) == pytest.approx(np.quantile(paired, [0.025, 0.975], axis=0))
    assert [float(end[0]) for end in difference] == [0, 0, 0]

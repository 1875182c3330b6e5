"""Logits in float16: stored as they are, unless float16 cannot hold them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.resample import resize_bilinear, softmax
from pipeline.store import encode_maps

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 5, (4, 5, 6)).astype(np.float32)


def decoded(maps):
    return encode_maps(maps, np.float16).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1, 8])
def test_logits_whose_largest_is_at_most_128_keep_their_bytes(scale):
    maps = np.clip(LOGITS * np.float32(scale), -60000, 128)
    assert encode_maps(maps, "float16").tobytes() == maps.astype(np.float16).tobytes()


def test_a_common_offset_of_30000_loses_no_difference():
    assert np.abs(softmax(LOGITS) - softmax((LOGITS + 30000).astype(np.float16).astype(np.float32))).max() > 0.3
    exact = softmax(LOGITS.astype(np.float64) + 30000)
    assert np.abs(softmax(decoded(LOGITS + np.float32(30000))) - exact).max() < 0.01
    assert np.abs(softmax(decoded(LOGITS + np.float32(1e30)))).max() <= 1  # no differences left in float32 either


def test_masks_of_minus_1e9_stay_finite_and_shift_nothing():
    maps = LOGITS.copy()
    maps[2] = -1e9
    stored = decoded(maps)
    assert np.isfinite(stored).all()
    assert np.array_equal(stored[[0, 1, 3]], maps[[0, 1, 3]].astype(np.float16).astype(np.float32))
    up = softmax(resize_bilinear(stored, (20, 24)))
    assert (up[2] == 0).all()
    assert np.isfinite(up).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_logits_of_any_size_have_the_same_probabilities_after_up_sampling(seed, offset, spread):
    """A logit is off by at most 1/16 in float16 where it counts, so a probability by at most a factor exp(1/8)."""
    rng = np.random.default_rng(seed)
    maps = (rng.normal(0, 3, (3, 4, 5)) + offset + rng.normal(0, spread, (1, 4, 5))).astype(np.float32)
    expected = softmax(resize_bilinear(maps - maps.max(axis=0), (8, 10)))
    actual = softmax(resize_bilinear(decoded(maps), (8, 10)))
    assert np.abs(np.log(actual + 1e-6) - np.log(expected + 1e-6)).max() <= 1 / 8 + 1e-3

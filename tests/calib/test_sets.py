import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib import (
    abstained_by_size,
    class_planes,
    label_pixels,
    num_bytes,
    pack_sets,
    prediction_sets,
    teaching_sets,
    unpack_sets,
)

NAN = np.nan
SHAPES = st.tuples(st.integers(1, 255), st.integers(1, 4), st.integers(1, 5))


@settings(max_examples=30)
@given(hnp.arrays(np.bool_, SHAPES))
def test_bits_hold_every_set_and_give_it_back(sets):
    bits = pack_sets(sets)
    assert bits.shape == (num_bytes(len(sets)), *sets.shape[1:])
    assert np.array_equal(unpack_sets(bits, len(sets)), sets)
    for c in range(len(sets)):
        assert np.array_equal(bits[c // 8] >> (c % 8) & 1, sets[c])


def test_a_set_by_hand():
    sets = np.zeros((10, 1, 1), np.bool_)
    sets[[0, 3, 9]] = True
    assert pack_sets(sets).ravel().tolist() == [1 + 8, 2]


@pytest.mark.parametrize(("uncalibrated", "at_infinity"), [("abstain", [False] * 3), ("accept", [True] * 3)])
def test_a_class_is_in_the_set_if_its_score_is_at_most_the_threshold(uncalibrated, at_infinity):
    probabilities = np.float32([0.5, 0.25, 0.25]).reshape(3, 1, 1).repeat(4, axis=2)
    sets = prediction_sets(probabilities, np.float32([[0.5, 0.75, NAN, np.inf]]), uncalibrated)
    assert sets[:, 0].T.tolist() == [[True, False, False], [True] * 3, [False] * 3, at_infinity]
    class_wise = prediction_sets(probabilities[..., :1], np.float32([0.4, 0.75, NAN]).reshape(3, 1, 1), uncalibrated)
    assert class_wise.ravel().tolist() == [False, True, False]


def test_a_pixel_teaches_if_it_has_no_label_and_its_set_excludes_a_class_and_leaves_two():
    sets = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]], np.bool_)[:, np.newaxis]
    label = np.float32([[NAN, NAN, NAN, 1, NAN]])
    assert teaching_sets(pack_sets(sets), label, 3).ravel().tolist() == [0, 0, 0b011, 0, 0]
    assert abstained_by_size(pack_sets(sets), label, 3).tolist() == [1, 1, 1, 1]


@given(st.integers(0, 99), st.integers(2, 6), st.sampled_from([None, 0, 1]))
def test_under_one_threshold_just_rule_singleton_leaves_sets_that_teach(seed, num_classes, background):
    rng = np.random.default_rng(seed)
    maps = rng.dirichlet(np.ones(num_classes), (3, 4)).transpose(2, 0, 1).astype(np.float32)
    q_hat = rng.random((3, 4), dtype=np.float32)
    bits, planes = pack_sets(prediction_sets(maps, q_hat, "abstain")), class_planes(maps, background)
    sizes = (1 - maps <= q_hat).sum(axis=0)
    for rule in ("paper", "no_background", "argmax", "singleton"):
        label = label_pixels(planes, q_hat, rule, background, "abstain")
        teaches = teaching_sets(bits, label, num_classes).any(axis=0)
        expected = (sizes >= 2) & (sizes < num_classes) & (rule == "singleton")
        assert np.array_equal(teaches, expected)

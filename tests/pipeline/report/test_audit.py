"""The audit: fractions that one can count by hand, a naive loop over pixels, and independence of tiles."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from pipeline.report import audit

NAN = float("nan")
NAMES = ["sky", "road", "car"]

TRUTH = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
RAW = np.array([[0, 0, 1, 1], [1, 0, 2, 0]], np.uint8)
LABEL = np.array([[0, NAN, NAN, 1], [0, NAN, 2, NAN]], np.float32)  # at (1, 0) a label that is not the most probable


def summary_of_the_small_case():
    return audit.summarise(audit.count_labels(TRUTH, RAW, LABEL, 3), NAMES)


def test_counts_accuracy_and_miou_of_a_map_that_one_can_check_by_hand():
    facts = summary_of_the_small_case()
    assert facts["pixels"] == 6  # two are void
    assert facts["raw"]["pixel_accuracy"] == pytest.approx(4 / 6)
    assert facts["raw"]["miou"] == pytest.approx((2 / 4 + 2 / 4) / 2)  # car is neither there nor predicted
    assert facts["kept"]["keep_rate"] == pytest.approx(3 / 6)
    assert facts["kept"]["precision"] == pytest.approx(2 / 3)
    assert facts["kept"]["miou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert facts["kept"]["raw_accuracy"] == 1  # on the same pixels the annotator alone is right


def test_a_pixel_without_a_label_lowers_recall_but_not_precision():
    sky = summary_of_the_small_case()["classes"]["sky"]
    assert sky["pixels"] == 3
    assert sky["keep_rate"] == pytest.approx(1 / 3)
    assert sky["raw"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "iou": 2 / 4})
    assert sky["kept"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "iou": 1 / 2})


def test_what_was_never_counted_has_no_fraction():
    car = summary_of_the_small_case()["classes"]["car"]
    nothing = {"precision": None, "recall": None, "iou": None}
    assert car == {"pixels": 0, "keep_rate": None, "raw": nothing, "kept": nothing}
    empty = audit.summarise(audit.no_counts(3), NAMES)
    assert empty["raw"] == {"miou": None, "pixel_accuracy": None}
    assert empty["coverage"] == {"coverage": None, "calibrated": None, "uncalibrated_fraction": None}


def test_a_location_without_a_threshold_covers_everything_and_is_told_apart():
    score = np.array([[0.2, 0.9, 0.9, NAN, 0.5]], np.float32)
    q_hat = np.array([[0.2, 0.8, np.inf, 0.5, NAN]], np.float32)
    counts = audit.count_covered(score, q_hat, 3)
    assert (counts.scored, counts.covered, counts.uncalibrated) == (4, 3, 2)
    assert audit.coverage(counts) == {"coverage": 0.75, "calibrated": 0.5, "uncalibrated_fraction": 0.5}


def test_a_pixel_is_compared_with_the_threshold_of_its_true_class():
    q_hat = np.stack([np.full((2, 4), 0.1), np.full((2, 4), 0.2), np.full((2, 4), 0.3)]).astype(np.float32)
    own = audit.own_thresholds(q_hat, TRUTH)
    known = TRUTH != 255
    np.testing.assert_array_equal(own[known], np.array([0.1, 0.2, 0.3], np.float32)[TRUTH[known]])
    np.testing.assert_array_equal(audit.own_thresholds(q_hat[1], TRUTH), q_hat[1])


CLASSES = st.sampled_from([0, 1, 2])
SHAPE = (4, 5)


@given(
    truth=st_np.arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 255])),
    raw=st_np.arrays(np.uint8, SHAPE, elements=CLASSES),
    label=st_np.arrays(np.float32, SHAPE, elements=st.sampled_from([0, 1, 2, NAN])),
)
def test_agrees_with_a_loop_over_pixels(truth, raw, label):
    facts = audit.summarise(audit.count_labels(truth, raw, label, 3), NAMES)
    for what, predicted in (("raw", raw.astype(float)), ("kept", label)):
        pixels = [(t, p) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t != 255]
        labeled = [(t, p) for t, p in pixels if not math.isnan(p)]
        ious = [iou for k in range(3) if (iou := naive_fraction(labeled, k, "iou", pixels)) is not None]
        assert facts[what]["miou"] == (pytest.approx(sum(ious) / len(ious)) if ious else None)
        for k, name in enumerate(NAMES):
            for measure in ("precision", "recall", "iou"):
                expected = naive_fraction(labeled, k, measure, pixels)
                assert facts["classes"][name][what][measure] == (None if expected is None else pytest.approx(expected))


def naive_fraction(labeled, k, measure, pixels):
    """One measure of class k; (true, predicted) pairs of the labeled pixels, and of all that have a true class."""
    right = sum(t == p == k for t, p in labeled)
    whole = {
        "precision": sum(p == k for _, p in labeled),
        "recall": sum(t == k for t, _ in pixels),
        "iou": sum(k in (t, p) for t, p in labeled),
    }[measure]
    return right / whole if whole else None


@given(row=st.integers(1, SHAPE[0] - 1), seed=st.integers(0, 100))
def test_counts_of_parts_add_up_to_those_of_the_whole(row, seed):
    rng = np.random.default_rng(seed)
    truth, raw = rng.integers(0, 3, (2, *SHAPE)).astype(np.uint8)
    label = np.where(rng.random(SHAPE) < 0.5, NAN, raw).astype(np.float32)
    whole = audit.count_labels(truth, raw, label, 3)
    parts = [audit.count_labels(truth[rows], raw[rows], label[rows], 3) for rows in (slice(row), slice(row, None))]
    for expected, actual in zip(whole, audit.total(parts, 3), strict=True):
        np.testing.assert_array_equal(actual, expected)

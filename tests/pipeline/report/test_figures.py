"""Figures: thresholds for all classes and class-wise ones, and the outcomes of all pixels."""

import numpy as np
import pytest

from pipeline.report import figures

NAN, INF = float("nan"), float("inf")
# [3, 1, 3]: at the first location three finite thresholds, then one, then none
CLASS_WISE = np.array([[[0.1, 0.2, INF]], [[0.3, INF, INF]], [[0.8, NAN, NAN]]], np.float32)


def test_class_wise_thresholds_are_shown_by_the_median_of_the_finite_ones():
    shown = figures.shown_thresholds(CLASS_WISE)
    np.testing.assert_allclose(shown, [[0.3, 0.2, NAN]], rtol=1e-6)
    drawn = figures.threshold_map(CLASS_WISE)
    assert (drawn.low, drawn.high) == pytest.approx((0.2, 0.3))
    assert drawn.map_uri.startswith("data:image/png")


ONE = np.full((2, 3), 0.5)
ONE_A_CLASS = np.broadcast_to(np.array([0.2, 0.5, INF])[:, None, None], (3, 2, 3))


@pytest.mark.parametrize("q_hat", [ONE, ONE_A_CLASS])
def test_thresholds_that_are_the_same_everywhere_are_not_drawn(q_hat):
    assert figures.threshold_map(q_hat.astype(np.float32)).map_uri is None


def test_without_a_finite_threshold_the_map_is_hatched_and_there_is_no_histogram():
    nothing = np.full((2, 3), INF, np.float32)
    assert figures.threshold_map(nothing).map_uri is not None
    assert figures.threshold_map(nothing).low is None
    assert figures.threshold_histogram(nothing) is None


def test_every_class_has_its_numbers():
    first, second, third = figures.class_thresholds(CLASS_WISE, ["sky", "road", "car"])
    assert first.name == "sky"
    assert (first.low, first.median, first.high) == pytest.approx((0.1, 0.15, 0.2))
    assert first.not_finite == pytest.approx(1 / 3)
    assert (second.median, second.not_finite) == (pytest.approx(0.3), pytest.approx(2 / 3))
    assert third.not_finite == pytest.approx(2 / 3)
    assert figures.class_thresholds(CLASS_WISE[0], ["sky"]) == []


def labels(rule, **pixels):
    nothing = dict.fromkeys(("kept", "empty", "uncalibrated", "background_overruled", "background_only"), 0)
    return {"rule": rule, "pixels": {"pixels": 100, **nothing, **pixels}}


# of 100 pixels 10 have an empty set and 35 no threshold
@pytest.mark.parametrize(
    ("rule", "is_class_wise", "kept", "rest"),
    [
        ("paper", False, 60, {"uncalibrated": 30}),  # 5 without a threshold are kept: accept
        ("singleton", False, 50, {"uncalibrated": 35, "ambiguous": 5}),
        ("paper", True, 55, {"uncalibrated": 35}),
        ("argmax", True, 50, {"uncalibrated": 35, "ambiguous": 5}),
    ],
)
def test_outcomes_add_up_to_all_pixels(rule, is_class_wise, kept, rest):
    facts = labels(rule, kept=kept, empty=10, uncalibrated=35)
    pixels = {row.kind: row.pixels for row in figures.outcomes(facts, False, is_class_wise)}
    assert pixels == {"kept": kept, "empty": 10, **rest}
    assert sum(pixels.values()) == 100

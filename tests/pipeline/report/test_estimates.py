"""Held-out estimates: the row of the labels, the choice of rule auto, and fractions that follow from others."""

import pytest

from pipeline.report.estimates import held_out_estimates, wrong_fraction

RULES = ("paper", "argmax", "singleton")


def estimate(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def row(alpha, rule, precision=0.8, keep_rate=0.5, miou=0.6, variant="pixel"):
    return {
        "variant": variant,
        "alpha": alpha,
        "rule": rule,
        "folds": 3,
        "target": 1 - alpha,
        "coverage": estimate(1 - alpha),
        "coverage_per_class": {"cat": estimate(0.7), "dog": None},
        "precision": precision and estimate(precision),
        "precision_per_class": {"cat": estimate(0.6), "dog": None},
        "recall_per_class": {"cat": estimate(0.5), "dog": None},
        "fractions_per_class": {"cat": {"labels": 0.25, "masks": 0.5}, "dog": {"labels": None, "masks": None}},
        "miou": estimate(miou),
        "keep_rate": estimate(keep_rate),
        "wrong": estimate(0.1),
        "against_raw": {
            "same_keep": estimate(0.75),
            "precision": estimate(0.1),
            "precision_same_keep": estimate(0.05),
            "miou": {"value": -0.2, "low": -0.3, "high": -0.1},
            "miou_is_larger": 0.01,
        },
    }


RAW = {
    **row(0.3, "raw", 0.7, 1.0, miou=0.8),
    "precision_per_class": {"cat": estimate(0.55), "dog": None},
    "recall_per_class": {"cat": estimate(0.65), "dog": None},
    "against_raw": None,
}
ROWS = [row(alpha, rule, 1 - alpha / 2) for alpha in (0.3, 0.1) for rule in RULES]


def estimates_for(alpha=0.3, rule="paper", target=None, classes="pooled", rows=ROWS, audit=None, is_automatic=False):
    held_out = rows and {"rows": rows, "raw": RAW, "num_images": 9, "folds": 3}
    calibrated = {"held_out": held_out, "class_thresholds": classes}
    labels = {
        "variant": "pixel",
        "alpha": alpha,
        "rule": rule,
        "is_automatic": is_automatic or target is not None,
        "shift": None,
        "settings": {"pseudolabel": {"target_precision": target, "precision_of": "pixels"}},
    }
    return held_out_estimates(calibrated, labels, audit)


def test_the_row_in_use_is_that_of_the_labels_and_alphas_ascend():
    estimates = estimates_for(0.3, "singleton")
    assert (estimates.row["alpha"], estimates.row["rule"]) == (0.3, "singleton")
    assert [group.alpha for group in estimates.by_alpha] == [0.1, 0.3]
    used = [(group.alpha, r.rule) for group in estimates.by_alpha for r in group.rules if r.is_used]
    assert used == [(0.3, "singleton")]
    assert estimates.used.wrong == 0.1


def test_with_one_threshold_for_all_classes_argmax_stands_for_no_background_too():
    estimates = estimates_for(0.1, "no_background")
    assert estimates.used.rule == "argmax = no_background"
    assert estimates_for(0.1, "argmax", classes="each").used.rule == "argmax"


def test_there_are_no_estimates_without_held_out_images_or_without_a_row():
    assert estimates_for(rows=None) is None
    assert estimates_for(alpha=0.2) is None


@pytest.mark.parametrize(("target", "is_reached"), [(0.85, True), (0.86, False)])
def test_the_choice_of_auto_is_compared_with_its_target(target, is_reached):
    estimates = estimates_for(0.3, "paper", target=target)  # its precision is 0.85
    assert estimates.auto_choice == (7, target, "pixels", is_reached)
    assert estimates_for(0.3, "paper").auto_choice is None
    assert estimates_for(0.3, "paper", is_automatic=True).auto_choice == (7, None, "pixels", True)


def test_the_argmax_is_a_row_and_the_best_come_first():
    rows = [*ROWS, row(0.1, "paper", miou=0.9, variant="image"), row(0.5, "paper", miou=0.1)]
    estimates = estimates_for(0.3, "raw", rows=rows)
    assert [group.alpha for group in estimates.by_alpha] == [0.1, 0.3, 0.5]  # of the variant in use
    assert [(r.variant, r.rule, r.is_used) for r in estimates.best[:2]] == [
        ("image", "paper", False),
        ("pixel", "raw", True),
    ]
    assert (estimates.raw.precision, estimates.row["coverage"]) == (estimate(0.7), estimate(0.7))
    assert "mIoU of the labels 90.0 against 80.0" in estimates.verdict
    assert estimates_for(0.3, "paper").used.same_keep == estimate(0.75)


def test_classes_come_with_the_precision_of_the_audit_if_there_is_one():
    audit = {"classes": {name: {"kept": {"precision": p}} for name, p in (("cat", 0.65), ("dog", None))}}
    cat, dog = estimates_for(audit=audit).classes
    assert (cat.name, cat.precision["value"], cat.true_precision) == ("cat", 0.6, 0.65)
    values = [estimate and estimate["value"] for estimate in (cat.raw_precision, cat.recall, cat.raw_recall)]
    assert values == [0.55, 0.5, 0.65]
    assert (*dog[1:6], dog.true_precision) == (None,) * 6
    assert (cat.fractions, dog.fractions) == ({"labels": 0.25, "masks": 0.5}, {"labels": None, "masks": None})
    assert estimates_for().classes[0].true_precision is None


def test_wrong_pixels_are_the_labeled_ones_that_are_not_right():
    assert wrong_fraction(0.75, 0.4) == pytest.approx(0.1)
    assert wrong_fraction(None, 0.0) == 0
    assert wrong_fraction(None, None) is None

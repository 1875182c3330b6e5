"""What held-out labelled images say of the labels, from the receipts of calibrate and pseudolabel to rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from pipeline.held_out import find_row

Facts = Mapping[str, Any]

DECILES_SHOWN = {0: "lowest", 1: "10 %", 5: "median", 9: "90 %", 10: "highest"}  # index of the decile, its name


class RuleRow(NamedTuple):
    """One rule at one alpha; estimates have value, low and high, or are None. wrong: share of all pixels."""

    rule: str
    precision: Facts | None
    keep_rate: Facts | None
    wrong: float | None
    is_used: bool


class AlphaRows(NamedTuple):
    """All rules at one alpha. facts: of the prediction sets, which do not depend on the rule."""

    alpha: float
    facts: Facts
    rules: list[RuleRow]


class ClassRow(NamedTuple):
    """One class: held-out estimates (or None), and the precision against masks of unlabelled images, if there are."""

    name: str
    coverage: Facts | None
    precision: Facts | None
    true_precision: float | None


class Asked(NamedTuple):
    """What rule auto was asked for, and whether the row that it took reaches it."""

    target: float
    is_reached: bool


class HeldOut(NamedTuple):
    """Held-out facts. row: of the alpha and rule of the labels; asked: None unless the rule was auto."""

    num_images: int
    folds: int
    row: Facts
    used: RuleRow
    by_alpha: list[AlphaRows]
    classes: list[ClassRow]
    asked: Asked | None


def held_out(calibrated: Facts, labels: Facts, audit: Facts | None) -> HeldOut | None:
    """From the receipts of calibrate and pseudolabel, and the audit; None if there was nothing to hold out.

    A single labelled image cannot be held out. Of an alpha whose folds have too few images, estimates are None.
    """
    found = calibrated["held_out"]
    row = find_row(found["rows"], labels["alpha"], labels["rule"]) if found else None
    if row is None:
        return None
    is_class_wise = calibrated["class_thresholds"] != "pooled"
    asked = None
    if labels["is_automatic"]:
        target = labels["settings"]["target_precision"]
        asked = Asked(target, row["precision"] is not None and row["precision"]["value"] >= target)
    return HeldOut(
        num_images=found["num_images"],
        folds=found["folds"],
        row=row,
        used=_rule_row(row, row, is_class_wise),
        by_alpha=by_alpha(found["rows"], row, is_class_wise),
        classes=classes(row, audit),
        asked=asked,
    )


def by_alpha(rows: Sequence[Facts], used: Facts, is_class_wise: bool) -> list[AlphaRows]:
    """The rows in groups of one alpha, the smallest first; rules as they are ordered."""
    ordered = sorted(rows, key=itemgetter("alpha"))
    groups = [(alpha, list(group)) for alpha, group in groupby(ordered, key=itemgetter("alpha"))]
    return [
        AlphaRows(alpha, group[0], [_rule_row(row, used, is_class_wise) for row in group]) for alpha, group in groups
    ]


def _rule_row(row: Facts, used: Facts, is_class_wise: bool) -> RuleRow:
    # with one threshold for all classes, argmax and no_background are one rule, and judged once
    name = "argmax = no_background" if row["rule"] == "argmax" and not is_class_wise else row["rule"]
    return RuleRow(name, row["precision"], row["keep_rate"], row["wrong"] and row["wrong"]["value"], row is used)


def wrong_share(precision: float | None, keep_rate: float | None) -> float | None:
    """Share of all pixels that are labelled wrong; 0 if nothing is labelled, None if there are no pixels."""
    if keep_rate is None:
        return None
    return 0.0 if precision is None else keep_rate * (1 - precision)


def classes(row: Facts, audit: Facts | None) -> list[ClassRow]:
    """A row a class, in the order of the classes."""
    return [
        ClassRow(
            name,
            coverage,
            row["precision_per_class"][name],
            audit["classes"][name]["kept"]["precision"] if audit else None,
        )
        for name, coverage in row["coverage_per_class"].items()
    ]

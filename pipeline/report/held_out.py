"""What held-out labeled images say of the labels, from the receipts of calibrate and pseudolabel to rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import calib
from pipeline.calibration.cross_fitting import candidates, find_row
from pipeline.calibration.verdict import verdict

Facts = Mapping[str, Any]

NUM_BEST = 8  # rows of the table of candidates

DECILES_SHOWN = {0: "lowest", 1: "10 %", 5: "median", 9: "90 %", 10: "highest"}  # index of the decile, its name


class RuleRow(NamedTuple):
    """One rule at one alpha; estimates have value, low and high, or are None. wrong: share of all pixels.

    same_keep: precision of the annotator's own argmax at the keep rate of this row
    """

    variant: str
    alpha: float
    rule: str
    precision: Facts | None
    same_keep: Facts | None
    miou: Facts | None
    keep_rate: Facts | None
    wrong: float | None
    is_used: bool


class AlphaRows(NamedTuple):
    """All rules at one alpha. facts: of the prediction sets, which do not depend on the rule."""

    alpha: float
    facts: Facts
    rules: list[RuleRow]


class ClassRow(NamedTuple):
    """One class: held-out estimates (or None), those of the annotator's own argmax beside them, and the precision
    against masks of unlabeled images, if there are."""

    name: str
    coverage: Facts | None
    precision: Facts | None
    raw_precision: Facts | None
    recall: Facts | None
    raw_recall: Facts | None
    true_precision: float | None


class Asked(NamedTuple):
    """What rule auto was asked for, and whether the row that it took reaches it.

    target: of the precision, None if there is none; precision_of: of what
    """

    num_candidates: int
    target: float | None
    precision_of: str
    is_reached: bool


class HeldOut(NamedTuple):
    """Held-out facts.

    row:     of the variant, alpha and rule of the labels
    raw:     of the annotator's own argmax
    verdict: the labels beside the argmax, a sentence
    by_alpha: of the variant of the labels
    best:    of all that could be chosen, the rows of the largest mIoU, raw and the one in use among them
    asked:   None unless the rule was auto
    """

    num_images: int
    folds: int
    row: Facts
    raw: RuleRow
    used: RuleRow
    verdict: str | None
    by_alpha: list[AlphaRows]
    best: list[RuleRow]
    classes: list[ClassRow]
    asked: Asked | None


def held_out(calibrated: Facts, labels: Facts, audit: Facts | None) -> HeldOut | None:
    """From the receipts of calibrate and pseudolabel, and the audit; None if there was nothing to hold out.

    A single labeled image cannot be held out. Of an alpha whose folds have too few images, estimates are None.
    """
    found, variant = calibrated["held_out"], labels["variant"]
    row = find_row(found, variant, labels["alpha"], labels["rule"])
    if row is None:
        return None
    is_class_wise = calibrated["class_thresholds"] != "pooled"
    used = _rule_row(row, row, is_class_wise)
    known = candidates(found, labels["settings"]["pseudolabel"]["precision_of"])
    asked = None
    if labels["is_automatic"]:
        target = labels["settings"]["pseudolabel"]["target_precision"]
        own = [c.precision for c in known if _is_same(c._asdict(), row)]
        is_reached = target is None or any(precision >= target for precision in own)
        asked = Asked(len(known), target, labels["settings"]["pseudolabel"]["precision_of"], is_reached)
    return HeldOut(
        num_images=found["num_images"],
        folds=row["folds"],
        row=row,
        raw=_rule_row(found["raw"], row, is_class_wise),
        used=used,
        verdict=verdict(found, variant, labels["alpha"], labels["rule"]),
        by_alpha=by_alpha([r for r in found["rows"] if r["variant"] == variant], row, is_class_wise),
        best=best_rows(found, known, row, is_class_wise),
        classes=classes(row, found["raw"], audit),
        asked=asked,
    )


def best_rows(found: Facts, known: Sequence[calib.Candidate], used: Facts, is_class_wise: bool) -> list[RuleRow]:
    """The first of the candidates by held-out mIoU, and raw and the row in use wherever they come."""
    rows = [found["raw"], *found["rows"]]
    at = {(row["variant"], row["alpha"], row["rule"]): _rule_row(row, used, is_class_wise) for row in rows}
    ranked = sorted((at[candidate[:3]] for candidate in known), key=lambda row: -_value(row.miou))
    return [row for place, row in enumerate(ranked) if place < NUM_BEST or row.is_used or row.rule == "raw"]


def _value(estimate: Facts | None) -> float:
    return estimate["value"] if estimate else 0.0


def _is_same(candidate: Mapping[str, Any], used: Facts) -> bool:
    """Of rule raw, neither alpha nor variant matter; rules that are alike are judged as one."""
    if used["rule"] == "raw" or candidate["rule"] == "raw":
        return bool(used["rule"] == candidate["rule"])
    return all(candidate[name] == used[name] for name in ("variant", "alpha", "rule"))


def by_alpha(rows: Sequence[Facts], used: Facts, is_class_wise: bool) -> list[AlphaRows]:
    """The rows in groups of one alpha, the smallest first; rules as they are ordered."""
    ordered = sorted(rows, key=itemgetter("alpha"))
    groups = [(alpha, list(group)) for alpha, group in groupby(ordered, key=itemgetter("alpha"))]
    return [
        AlphaRows(alpha, group[0], [_rule_row(row, used, is_class_wise) for row in group]) for alpha, group in groups
    ]


def _rule_row(row: Facts, used: Facts, is_class_wise: bool) -> RuleRow:
    # with one threshold for all classes, rules that are alike are judged once
    alike = (row["rule"],) if is_class_wise else calib.rules_alike(row["rule"])
    name = " = ".join(dict.fromkeys((row["rule"], *alike)))
    against = row["against_raw"] or {"same_keep": None}
    return RuleRow(
        row["variant"],
        row["alpha"],
        name,
        row["precision"],
        against["same_keep"],
        row["miou"],
        row["keep_rate"],
        row["wrong"] and row["wrong"]["value"],
        _is_same(row, used),
    )


def wrong_fraction(precision: float | None, keep_rate: float | None) -> float | None:
    """Fraction of all pixels that are labeled wrong; 0 if nothing is labeled, None if there are no pixels."""
    if keep_rate is None:
        return None
    return 0.0 if precision is None else keep_rate * (1 - precision)


def classes(row: Facts, raw: Facts, audit: Facts | None) -> list[ClassRow]:
    """A row a class, in the order of the classes."""
    return [
        ClassRow(
            name,
            coverage,
            row["precision_per_class"][name],
            raw["precision_per_class"][name],
            row["recall_per_class"][name],
            raw["recall_per_class"][name],
            audit["classes"][name]["kept"]["precision"] if audit else None,
        )
        for name, coverage in row["coverage_per_class"].items()
    ]

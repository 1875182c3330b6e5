"""Held-out estimates of coverage, precision and mIoU, as rows of the report's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import calib
from pipeline.calibration.rows import candidates, find_row
from pipeline.calibration.verdict import advice, verdict

Facts = Mapping[str, Any]

NUM_BEST = 8  # candidates in the table

DECILES_SHOWN = {0: "lowest", 1: "10 %", 5: "median", 9: "90 %", 10: "highest"}  # number of the decile -> name


class RuleRow(NamedTuple):
    """One rule at one alpha. Estimates have value, low and high in [0, 1], or are None.

    same_keep: precision of the annotator's argmax at the keep rate of this row
    wrong:     fraction of all pixels that are labeled wrong
    is_used:   whether the labels of the run are those of this row
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
    """All rules at one alpha. facts: estimates of the prediction sets, which do not depend on the rule."""

    alpha: float
    facts: Facts
    rules: list[RuleRow]


class ClassRow(NamedTuple):
    """One class: estimates, or None, of the labels and of the annotator's argmax (`raw_`).

    fractions:      of the labels and of the masks that are of this class
    true_precision: on unlabeled images, from the audit; None without one
    """

    name: str
    coverage: Facts | None
    precision: Facts | None
    raw_precision: Facts | None
    recall: Facts | None
    raw_recall: Facts | None
    fractions: Facts
    true_precision: float | None


class AutoChoice(NamedTuple):
    """The choice of rule auto.

    num_candidates: from which it chose
    target:         `pseudolabel.target_precision`, None if there is none
    precision_of:   `pseudolabel.precision_of`
    is_reached:     whether the chosen labels reach the target
    """

    num_candidates: int
    target: float | None
    precision_of: str
    is_reached: bool


class Estimates(NamedTuple):
    """Held-out estimates of a run.

    num_groups:  of the labeled images (`data.groups`); None without groups
    row:         of the labels, as in the receipt of calibrate
    raw:         of the annotator's argmax
    used:        of the labels
    verdict:     comparison of the labels with the argmax, a sentence
    against_raw: mIoU of the labels minus that of the argmax, an estimate; None if they are the argmax
    by_alpha:    for the variant of the labels
    best:        candidates with the largest mIoU, and raw and the row in use in any case
    auto_choice: None unless the rule was auto, and with a guarantee
    """

    num_images: int
    num_groups: int | None
    folds: int
    row: Facts
    raw: RuleRow
    used: RuleRow
    verdict: str | None
    against_raw: Facts | None
    by_alpha: list[AlphaRows]
    best: list[RuleRow]
    classes: list[ClassRow]
    auto_choice: AutoChoice | None

    @property
    def advice(self) -> str | None:
        """Which labels are better, in words; None if there is nothing to compare."""
        return None if self.against_raw is None else advice(self.against_raw)

    @property
    def is_worse_than_raw(self) -> bool:
        """Whether the annotator's argmax is better, beyond noise."""
        return self.against_raw is not None and self.against_raw["high"] < 0


def held_out_estimates(calibrated: Facts, labels: Facts, audit: Facts | None) -> Estimates | None:
    """The estimates in a run's receipts; None if there are none, as with a single labeled image or group.

    At an alpha for which a fold has too few images, estimates are None.

    calibrated: receipt of calibrate
    labels:     receipt of pseudolabel
    audit:      `audit.summarise`
    """
    estimates, variant = calibrated["held_out"], labels["variant"]
    row = find_row(estimates, variant, labels["alpha"], labels["rule"])
    if row is None:
        return None
    is_class_wise = calibrated["class_thresholds"] != "pooled"
    used = _rule_row(row, row, is_class_wise)
    known = candidates(estimates, labels["settings"]["pseudolabel"]["precision_of"])
    auto_choice = None
    if labels["is_automatic"] and labels.get("guarantee") is None:
        target = labels["settings"]["pseudolabel"]["target_precision"]
        own = [c.precision for c in known if _is_same(c._asdict(), row)]
        is_reached = target is None or any(precision >= target for precision in own)
        auto_choice = AutoChoice(len(known), target, labels["settings"]["pseudolabel"]["precision_of"], is_reached)
    return Estimates(
        num_images=estimates["num_images"],
        num_groups=estimates.get("num_groups"),
        folds=row["folds"],
        row=row,
        raw=_rule_row(estimates["raw"], row, is_class_wise),
        used=used,
        verdict=verdict(estimates, variant, labels["alpha"], labels["rule"]),
        against_raw=row["against_raw"] and row["against_raw"]["miou"],
        by_alpha=by_alpha([r for r in estimates["rows"] if r["variant"] == variant], row, is_class_wise),
        best=best_rows(estimates, known, row, is_class_wise),
        classes=classes(row, estimates["raw"], audit),
        auto_choice=auto_choice,
    )


def best_rows(estimates: Facts, known: Sequence[calib.Candidate], used: Facts, is_class_wise: bool) -> list[RuleRow]:
    """Candidates in order of their held-out mIoU: the NUM_BEST first, raw, and the row in use.

    estimates: `held_out` of the receipt of calibrate
    used:      row of the labels
    """
    rows = [estimates["raw"], *estimates["rows"]]
    row_of = {(row["variant"], row["alpha"], row["rule"]): _rule_row(row, used, is_class_wise) for row in rows}
    shown = [candidate[:3] for candidate in known]
    if used["rule"] != calib.RAW:
        shown.append((used["variant"], used["alpha"], used["rule"]))  # labels with a guarantee are no candidates
    ranked = sorted((row_of[key] for key in dict.fromkeys(shown)), key=lambda row: -_value(row.miou))
    return [row for rank, row in enumerate(ranked) if rank < NUM_BEST or row.is_used or row.rule == "raw"]


def _value(estimate: Facts | None) -> float:
    return estimate["value"] if estimate else 0.0


def _is_same(candidate: Mapping[str, Any], used: Facts) -> bool:
    """Whether a candidate is the one in use. Rule raw is the same at every alpha and variant."""
    if used["rule"] == "raw" or candidate["rule"] == "raw":
        return bool(used["rule"] == candidate["rule"])
    return all(candidate[name] == used[name] for name in ("variant", "alpha", "rule"))


def by_alpha(rows: Sequence[Facts], used: Facts, is_class_wise: bool) -> list[AlphaRows]:
    """Rows grouped by alpha, in ascending order. used: row of the labels."""
    ordered = sorted(rows, key=itemgetter("alpha"))
    groups = [(alpha, list(group)) for alpha, group in groupby(ordered, key=itemgetter("alpha"))]
    return [
        AlphaRows(alpha, group[0], [_rule_row(row, used, is_class_wise) for row in group]) for alpha, group in groups
    ]


def _rule_row(row: Facts, used: Facts, is_class_wise: bool) -> RuleRow:
    # with one threshold for all classes, rules that label alike have one row
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
    """Fraction of all pixels that are labeled wrong; 0 if no pixel is labeled, None if there are no pixels.

    precision: in [0, 1], None if no pixel is labeled
    keep_rate: in [0, 1], None if there are no pixels
    """
    if keep_rate is None:
        return None
    return 0.0 if precision is None else keep_rate * (1 - precision)


def classes(row: Facts, raw: Facts, audit: Facts | None) -> list[ClassRow]:
    """One row per class. row, raw: of the labels and of the argmax, as in the receipt of calibrate."""
    return [
        ClassRow(
            name,
            coverage,
            row["precision_per_class"][name],
            raw["precision_per_class"][name],
            row["recall_per_class"][name],
            raw["recall_per_class"][name],
            row.get("fractions_per_class", {}).get(name, {"labels": None, "masks": None}),
            audit["classes"][name]["kept"]["precision"] if audit else None,
        )
        for name, coverage in row["coverage_per_class"].items()
    ]

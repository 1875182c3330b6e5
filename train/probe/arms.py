"""The arms of the comparison: labels of the unlabeled images (none, annotator's argmax, calibrated) and a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from calib import RAW as RAW_RULE
from calib import Candidate, rules_alike, without_equal_labels


class Labels(NamedTuple):
    """Labels of the unlabeled images. variant, alpha and rule are set for calibrated labels only."""

    labels: Literal["none", "raw", "calibrated"]
    variant: str | None = None
    alpha: float | None = None
    rule: str | None = None

    def __str__(self) -> str:
        match self.labels:
            case "none":
                return "the labeled images alone"
            case "raw":
                return "the annotator's argmax"
            case _:
                return f"variant {self.variant}, alpha {self.alpha:g}, rule {self.rule}"


NO_LABELS, RAW = Labels("none"), Labels("raw")


class Arm(NamedTuple):
    """One way to train. weight: of the unlabeled loss, relative to the labeled loss; 0 without labels"""

    labels: Labels
    weight: float

    def __str__(self) -> str:
        return str(self.labels) if self.labels.labels == "none" else f"{self.labels}, weight {self.weight:g}"

    def as_json(self) -> dict[str, Any]:
        """The arm as in the receipt."""
        return self.labels._asdict() | {"weight": self.weight}


def arms_of(calibrated: Sequence[Candidate], weights: Sequence[float]) -> list[Arm]:
    """The arms: the labeled images alone, then every kind of labels with every weight; the simplest kinds first."""
    kinds = [RAW, *(Labels("calibrated", c.variant, c.alpha, c.rule) for c in calibrated)]
    return [Arm(NO_LABELS, 0.0), *(Arm(labels, weight) for labels in kinds for weight in weights)]


def distinct_candidates(ranked: Sequence[Candidate], num: int, has_background: bool) -> list[Candidate]:
    """The best calibrated labels of each rule, then the best of other variants; at most `num`, no labels twice.

    Labels of one rule at neighbouring alphas differ in few pixels, and the held-out mIoU orders them well. It does not
    show whether a student learns more from more labels or from more precise ones, and that is how rules differ.

    ranked:         candidates, best first
    has_background: whether the data set has a background class; without one, fewer rules differ (`calib.rules_alike`)
    """

    def rule(candidate: Candidate) -> tuple[str, ...]:
        return (candidate.rule,) if has_background else rules_alike(candidate.rule, has_background)

    calibrated = [candidate for candidate in without_equal_labels(ranked) if candidate.rule != RAW_RULE]
    of_rule = {rule(candidate): candidate for candidate in reversed(calibrated)}
    of_variant = {(rule(candidate), candidate.variant): candidate for candidate in reversed(calibrated)}
    best, others = (sorted(group.values(), key=calibrated.index) for group in (of_rule, of_variant))
    return list(dict.fromkeys([*best, *others]))[:num]

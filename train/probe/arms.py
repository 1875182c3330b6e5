"""What can teach the unlabeled images: nothing, the annotator's own argmax, calibrated labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from calib import RAW as RAW_RULE
from calib import Candidate, rules_alike


class Labels(NamedTuple):
    """Labels of the unlabeled images. variant, alpha and rule: of calibrated ones."""

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
    """One way to train. weight: of the unlabeled loss beside the labeled one, 0 without labels."""

    labels: Labels
    weight: float

    def __str__(self) -> str:
        return str(self.labels) if self.labels.labels == "none" else f"{self.labels}, weight {self.weight:g}"

    def as_json(self) -> dict[str, Any]:
        return self.labels._asdict() | {"weight": self.weight}


def arms_of(calibrated: Sequence[Candidate], weights: Sequence[float]) -> list[Arm]:
    """The labeled images alone, then every kind of labels with every weight; the simplest kinds first."""
    kinds = [RAW, *(Labels("calibrated", one.variant, one.alpha, one.rule) for one in calibrated)]
    return [Arm(NO_LABELS, 0.0), *(Arm(labels, weight) for labels in kinds for weight in weights)]


def distinct_candidates(ranked: Sequence[Candidate], num: int, has_background: bool) -> list[Candidate]:
    """Of calibrated labels the best of each rule, then the best of other variants; at most `num`.

    Labels of one rule at neighbouring alphas differ in few pixels, and the held-out mIoU that ranks them orders those
    well. What it cannot tell is whether a student prefers more labels or purer ones: that is what rules differ in.

    has_background: without a background class, fewer rules differ (`calib.rules_alike`)
    """

    def rule(candidate: Candidate) -> tuple[str, ...]:
        return (candidate.rule,) if has_background else rules_alike(candidate.rule, has_background)

    calibrated = [candidate for candidate in ranked if candidate.rule != RAW_RULE]
    of_rule = {rule(candidate): candidate for candidate in reversed(calibrated)}
    of_variant = {(rule(candidate), candidate.variant): candidate for candidate in reversed(calibrated)}
    best, others = (sorted(some.values(), key=calibrated.index) for some in (of_rule, of_variant))
    return list(dict.fromkeys([*best, *others]))[:num]

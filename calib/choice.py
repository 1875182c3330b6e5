"""Which labels to take: candidates with what held-out images say of them, from the best on by some measure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calib.rules import RAW


class Candidate(NamedTuple):
    """Labels that can be chosen, and what held-out images say of them.

    precision: of all labels, or whatever a choice by precision is to be made by
    """

    variant: str
    alpha: float
    rule: str
    miou: float
    precision: float
    keep_rate: float


def rank(candidates: Sequence[Candidate], target_precision: float | None = None) -> tuple[list[Candidate], bool]:
    """The candidates from the best on, by mIoU; whether the first reaches the target of precision, if there is one.

    With a target, those that reach it come first, then the others, the most precise first. Among equals, rule raw, then
    the smaller alpha, then what comes first. The winner of many candidates looks a little better than it is: its
    held-out numbers are no bound.

    raises: ValueError if no candidate labels anything
    """
    target = -np.inf if target_precision is None else target_precision

    def order(candidate: Candidate) -> tuple[float, ...]:
        tie = float(candidate.rule != RAW), candidate.alpha
        if candidate.precision >= target:
            return 0.0, -candidate.miou, *tie
        return 1.0, -candidate.precision, -candidate.miou, *tie

    ranked = sorted(_labeling(candidates), key=order)
    return ranked, ranked[0].precision >= target


def choose_most_labels(candidates: Sequence[Candidate], target_precision: float) -> tuple[Candidate, bool]:
    """The rule and alpha that keep most labels at the target; the most precise ones, and False, if none reaches it.

    Among equals, the smaller alpha, then the rule that comes first; raises as `rank` does.
    """
    usable = _labeling(candidates)
    reaching = [candidate for candidate in usable if candidate.precision >= target_precision]
    if reaching:
        return max(reaching, key=lambda c: (c.keep_rate, -c.alpha)), True
    return max(usable, key=lambda c: (c.precision, c.keep_rate, -c.alpha)), False


def choose_most_precise(candidates: Sequence[Candidate], target_keep_rate: float) -> tuple[Candidate, bool]:
    """The most precise rule and alpha that keep this share or more; those that keep most, and False, if none does.

    Among equals as in `choose_most_labels`; raises as it does.
    """
    usable = _labeling(candidates)
    reaching = [candidate for candidate in usable if candidate.keep_rate >= target_keep_rate]
    if reaching:
        return max(reaching, key=lambda c: (c.precision, c.keep_rate, -c.alpha)), True
    return max(usable, key=lambda c: (c.keep_rate, c.precision, -c.alpha)), False


def _labeling(candidates: Sequence[Candidate]) -> list[Candidate]:
    usable = [candidate for candidate in candidates if candidate.keep_rate > 0]
    if not usable:
        raise ValueError("no rule labels anything at any alpha")
    return usable


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other beats: from the most labels to the most precise ones.

    Each keeps more than all that are more precise. Among equals, the smaller alpha, then the rule that comes first.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.keep_rate, -c.precision, c.alpha)):
        if candidate.keep_rate > 0 and (not front or candidate.precision > front[-1].precision):
            front.append(candidate)
    return front

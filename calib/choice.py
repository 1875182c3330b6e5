"""Choosing labels: candidates with their held-out estimates, ordered by mIoU, precision or keep rate."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calib.rules import RAW


class Candidate(NamedTuple):
    """Labels that can be chosen, with their estimates on held-out images, each in [0, 1].

    precision: of all labels, or the precision that the caller wants to choose by
    """

    variant: str
    alpha: float
    rule: str
    miou: float
    precision: float
    keep_rate: float


def rank(candidates: Sequence[Candidate], target_precision: float | None = None) -> tuple[list[Candidate], bool]:
    """The candidates that label anything, best first by mIoU.

    With a target, candidates that reach it come before the others, and the others are ordered by precision. Ties are
    broken in favour of rule raw, then of the smaller alpha, then of the earlier candidate. The estimates of the best of
    many candidates are slightly too high on average; they are no bounds.

    target_precision: in [0, 1], or None for no target
    returns:          the ordered candidates, and whether the first reaches the target (True without a target)
    raises:           ValueError if no candidate labels anything
    """
    target = -np.inf if target_precision is None else target_precision

    def order(candidate: Candidate) -> tuple[float, ...]:
        tie = float(candidate.rule != RAW), candidate.alpha
        if candidate.precision >= target:
            return 0.0, -candidate.miou, *tie
        return 1.0, -candidate.precision, -candidate.miou, *tie

    ranked = sorted(_labeling(candidates), key=order)
    return ranked, ranked[0].precision >= target


def without_equal_labels(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, in their order, without those whose three estimates equal those of an earlier one.

    Such labels are the same ones: as long as no set has two classes, for example, all rules label alike.
    """
    first_of = {candidate[3:]: candidate for candidate in reversed(ranked)}
    return [candidate for candidate in ranked if first_of[candidate[3:]] is candidate]


def choose_most_labels(candidates: Sequence[Candidate], target_precision: float) -> tuple[Candidate, bool]:
    """The candidate with the highest keep rate among those that reach a precision.

    Ties are broken in favour of the smaller alpha, then of the earlier candidate.

    target_precision: in [0, 1]
    returns:          the candidate and True; if none reaches the target, the most precise candidate and False
    raises:           ValueError if no candidate labels anything
    """
    usable = _labeling(candidates)
    reaching = [candidate for candidate in usable if candidate.precision >= target_precision]
    if reaching:
        return max(reaching, key=lambda c: (c.keep_rate, -c.alpha)), True
    return max(usable, key=lambda c: (c.precision, c.keep_rate, -c.alpha)), False


def choose_most_precise(candidates: Sequence[Candidate], target_keep_rate: float) -> tuple[Candidate, bool]:
    """The candidate with the highest precision among those that reach a keep rate.

    Ties are broken in favour of the higher keep rate, then of the smaller alpha, then of the earlier candidate.

    target_keep_rate: in [0, 1]
    returns:          the candidate and True; if none reaches the target, the one that keeps most labels and False
    raises:           ValueError if no candidate labels anything
    """
    usable = _labeling(candidates)
    reaching = [candidate for candidate in usable if candidate.keep_rate >= target_keep_rate]
    if reaching:
        return max(reaching, key=lambda c: (c.precision, c.keep_rate, -c.alpha)), True
    return max(usable, key=lambda c: (c.keep_rate, c.precision, -c.alpha)), False


def _labeling(candidates: Sequence[Candidate]) -> list[Candidate]:
    usable = [candidate for candidate in candidates if candidate.keep_rate > 0]
    if not usable:
        raise ValueError("no rule labels any pixel at any alpha; raise alpha")
    return usable


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of keep rate and precision, from the highest keep rate to the highest precision.

    Of equal candidates it contains the one with the smaller alpha, then the earlier one.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.keep_rate, -c.precision, c.alpha)):
        if candidate.keep_rate > 0 and (not front or candidate.precision > front[-1].precision):
            front.append(candidate)
    return front

"""Which arm to train on: mIoU of all held-out labeled images together, paired by image, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.run import Run
from train.measure.metrics import NUM_RESAMPLINGS, iou_of_areas, mean_over_classes
from train.probe.arms import Arm

Areas = npt.NDArray[np.int64]
SIMPLICITY = ("none", "raw", "calibrated")  # kinds of labels, the simplest first


class Difference(NamedTuple):
    """A difference of two mIoUs, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Outcome(NamedTuple):
    """What an arm is worth.

    miou:     of all held-out images together, 0 to 1
    by_fold:  of those of each fold
    to_none:  against the labeled images alone; to_raw: against the annotator as it is with the same weight
    to_best:  how much the best arm is better; noise: the standard error of that
    """

    arm: Arm
    miou: float
    by_fold: list[float]
    to_none: Difference
    to_raw: Difference
    to_best: float
    noise: float

    @property
    def is_level(self) -> bool:
        """Whether the best arm is better by no more than the standard error of their difference."""
        return self.to_best <= self.noise


def outcomes(arms: Sequence[Arm], areas: Areas, fold: npt.NDArray[np.integer], seed: int) -> list[Outcome]:
    """An outcome of each arm; the differences are of the same images, whole images are resampled.

    arms:  the labeled images alone are among them, and raw labels with every weight
    areas: int64 [A, N, 3, K], `class_areas` of each image by the arm's student that had not seen its mask
    fold:  int [N]
    """
    num = areas.shape[1]
    draws = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), NUM_RESAMPLINGS)
    found, resampled = _miou(areas.sum(axis=1)), _miou(np.tensordot(draws, areas.astype(np.float64), axes=(1, 1)))
    by_fold = np.stack([_miou(areas[:, fold == f].sum(axis=1)) for f in np.unique(fold)], axis=1)  # [A, F]
    resampled = resampled.T  # [A, resampling]
    best = int(found.argmax())

    def against(arm: int, other: int) -> Difference:
        low, high = np.quantile(resampled[arm] - resampled[other], [0.025, 0.975])
        return Difference(float(found[arm] - found[other]), float(low), float(high))

    return [
        Outcome(
            arm,
            float(found[a]),
            by_fold[a].tolist(),
            against(a, _place(arms, "none", 0.0)),
            against(a, _place(arms, "raw", arm.weight)),
            float(found[best] - found[a]),
            float((resampled[best] - resampled[a]).std()),
        )
        for a, arm in enumerate(arms)
    ]


def _place(arms: Sequence[Arm], labels: str, weight: float) -> int:
    """The arm with these labels and this weight; if none has it, the first with these labels."""
    places = [a for a, arm in enumerate(arms) if arm.labels.labels == labels]
    return next((a for a in places if arms[a].weight == weight), places[0])


def _miou(areas: npt.NDArray[np.integer | np.floating]) -> npt.NDArray[np.float64]:
    """[..., 3, K] -> float64 [...]; classes that are neither there nor predicted do not count."""
    return mean_over_classes(iou_of_areas(np.moveaxis(areas, -2, 0)), "skip")


def chosen(found: Sequence[Outcome]) -> Outcome:
    """The simplest labels that are level with the best arm (the one-standard-error rule), with their best weight.

    The best of many arms looks better than it is, and what is simpler needs less to hold later: labels alone need no
    annotator, raw labels no calibration that fits them.
    """
    level = [outcome for outcome in found if outcome.is_level]
    simplest = min(SIMPLICITY.index(outcome.arm.labels.labels) for outcome in level)
    return max(
        (outcome for outcome in level if SIMPLICITY.index(outcome.arm.labels.labels) == simplest),
        key=lambda outcome: outcome.miou,
    )


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """An outcome as it stands in the receipt."""
    return {
        **outcome.arm.as_json(),
        "miou": outcome.miou,
        "miou_by_fold": outcome.by_fold,
        "to_none": outcome.to_none._asdict(),
        "to_raw": outcome.to_raw._asdict(),
        "to_best": outcome.to_best,
        "noise": outcome.noise,
    }


def sentence(found: Sequence[Outcome], taken: Outcome) -> str:
    """Which labels to train on, with what weight, or that the labels alone are better; and how sure that is."""
    arm, best = taken.arm, max(found, key=lambda outcome: outcome.miou)
    if arm.labels.labels == "none":
        told = f"train on the labeled images alone: {100 * taken.miou:.1f} mIoU"
        rival = max((one for one in found if one is not taken), key=lambda outcome: outcome.miou)
        why = f"the best of the other labels ({rival.arm}) {_beside(rival.to_none)}"
        return f"{told}; {why}{'' if rival.to_none.value <= 0 else ', which is no more than its standard error'}"
    told = f"train on {arm}: {100 * taken.miou:.1f} mIoU, {_beside(taken.to_none)} against the labeled images alone"
    if arm.labels.labels == "calibrated":
        told += f" and {_beside(taken.to_raw)} against the annotator's argmax"
    if best is not taken:
        told += (
            f"; {best.arm} is {100 * taken.to_best:.1f} better, no more than the standard error {100 * taken.noise:.1f}"
        )
    return told


def _beside(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def command(run: Run, arm: Arm) -> str:
    """What trains on the labels of an arm with its weight."""
    labels = arm.labels
    if labels.labels == "none":
        return run.command("all", preset="label-only")
    stage1 = {"loss": "eq2", "pseudo_weight": arm.weight}
    if labels.labels == "raw":
        return run.command("all", rule="raw", stage1=stage1)
    return run.command("all", variant=labels.variant, rule=labels.rule, alpha=labels.alpha, stage1=stage1)

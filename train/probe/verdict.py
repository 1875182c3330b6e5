"""The verdict of the probe: mIoU of each arm on held-out images, differences paired by image, and the chosen arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
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
    """The result of an arm.

    miou:    of all held-out images together, 0 to 1
    by_fold: mIoU of the images of each fold
    to_none: mIoU minus that of the labeled images alone
    to_raw:  mIoU minus that of the annotator's argmax with the same weight
    to_best: mIoU of the best arm minus that of this arm
    noise:   standard error of `to_best`
    """

    arm: Arm
    miou: float
    by_fold: list[float]
    to_none: Difference
    to_raw: Difference
    to_best: float
    noise: float

    @property
    def is_near_best(self) -> bool:
        """Whether the best arm is better by at most one standard error of their difference."""
        return self.to_best <= self.noise


def outcomes(
    arms: Sequence[Arm],
    areas: Areas,
    fold: npt.NDArray[np.integer],
    seed: int,
    unit_of_image: npt.NDArray[np.integer] | None = None,
) -> list[Outcome]:
    """The outcome of each arm; intervals by resampling whole units, the same units for all arms.

    arms:          must contain the labeled images alone, and raw labels with every weight
    areas:         int64 [A, N, 3, K], `class_areas` of each image by the student of the arm that was not trained on it
    fold:          int [N], fold of each image
    unit_of_image: integer [N] (`calib.units`); default: each image is its own unit
    """
    units = calib.each_alone(areas.shape[1]) if unit_of_image is None else unit_of_image
    draws = calib.bootstrap_weights(units, NUM_RESAMPLINGS, np.random.default_rng(seed))
    miou, resampled = _miou(areas.sum(axis=1)), _miou(np.tensordot(draws, areas.astype(np.float64), axes=(1, 1)))
    by_fold = np.stack([_miou(areas[:, fold == f].sum(axis=1)) for f in np.unique(fold)], axis=1)  # [A, F]
    resampled = resampled.T  # [A, resampling]
    best = int(miou.argmax())

    def difference(arm: int, other: int) -> Difference:
        low, high = np.quantile(resampled[arm] - resampled[other], [0.025, 0.975])
        return Difference(float(miou[arm] - miou[other]), float(low), float(high))

    return [
        Outcome(
            arm,
            float(miou[a]),
            by_fold[a].tolist(),
            difference(a, _number_of(arms, "none", 0.0)),
            difference(a, _number_of(arms, "raw", arm.weight)),
            float(miou[best] - miou[a]),
            float((resampled[best] - resampled[a]).std()),
        )
        for a, arm in enumerate(arms)
    ]


def _number_of(arms: Sequence[Arm], labels: str, weight: float) -> int:
    """Number of the arm with these labels and this weight; if there is none, of the first arm with these labels."""
    numbers = [a for a, arm in enumerate(arms) if arm.labels.labels == labels]
    return next((a for a in numbers if arms[a].weight == weight), numbers[0])


def _miou(areas: npt.NDArray[np.integer | np.floating]) -> npt.NDArray[np.float64]:
    """mIoU from `class_areas`, [..., 3, K] -> float64 [...]; classes neither in masks nor predicted do not count."""
    return mean_over_classes(iou_of_areas(np.moveaxis(areas, -2, 0)), "skip")


def chosen(results: Sequence[Outcome]) -> Outcome:
    """The simplest labels within one standard error of the best arm, with their best weight.

    This is the one-standard-error rule: the measured mIoU of the best of many arms is too high on average, and simpler
    labels depend on less. Labels alone need no annotator, and raw labels need no calibration.
    """
    candidates = [outcome for outcome in results if outcome.is_near_best]
    simplest = min(SIMPLICITY.index(outcome.arm.labels.labels) for outcome in candidates)
    return max(
        (outcome for outcome in candidates if SIMPLICITY.index(outcome.arm.labels.labels) == simplest),
        key=lambda outcome: outcome.miou,
    )


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """An outcome as in the receipt."""
    return {
        **outcome.arm.as_json(),
        "miou": outcome.miou,
        "miou_by_fold": outcome.by_fold,
        "to_none": outcome.to_none._asdict(),
        "to_raw": outcome.to_raw._asdict(),
        "to_best": outcome.to_best,
        "noise": outcome.noise,
    }


def sentence(results: Sequence[Outcome], choice: Outcome) -> str:
    """The verdict in one sentence: the labels to train on, their weight, and the differences with their intervals."""
    arm, best = choice.arm, max(results, key=lambda outcome: outcome.miou)
    if arm.labels.labels == "none":
        text = f"train on the labeled images alone: {100 * choice.miou:.1f} mIoU"
        other = max((outcome for outcome in results if outcome is not choice), key=lambda outcome: outcome.miou)
        note = "" if other.to_none.value <= 0 else ", which is no more than its standard error"
        return f"{text}; the best other labels ({other.arm}) differ by {_with_interval(other.to_none)}{note}"
    to_none, to_raw = _with_interval(choice.to_none), _with_interval(choice.to_raw)
    text = f"train on {arm}: {100 * choice.miou:.1f} mIoU, {to_none} against the labeled images alone"
    if arm.labels.labels == "calibrated":
        text += f" and {to_raw} against the annotator's argmax"
    if best is not choice:
        noise = f"no more than the standard error {100 * choice.noise:.1f}"
        text += f"; {best.arm} is {100 * choice.to_best:.1f} better, {noise}"
    return text


def _with_interval(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def command(run: Run, arm: Arm) -> str:
    """The command that trains on the labels of an arm with its weight."""
    labels = arm.labels
    if labels.labels == "none":
        return run.command("all", preset="label-only")
    stage1 = {"loss": "eq2", "pseudo_weight": arm.weight}
    if labels.labels == "raw":
        return run.command("all", rule="raw", stage1=stage1)
    return run.command("all", variant=labels.variant, rule=labels.rule, alpha=labels.alpha, stage1=stage1)

"""What both stages derive from settings and samples: held-out images, steps, learning rates, fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import calib
from pipeline import receipt
from pipeline.datasets import Sample, SampleIndex, in_groups, num_groups, units_of
from pipeline.errors import TrainingError
from pipeline.settings import Settings
from train.data import shuffled
from train.schedule import poly_lr_factor, warmup_factor

VERSION = 4  # raise it when a change of the code changes the weights; older checkpoints are then not resumed


def labeled_samples(settings: Settings, index: SampleIndex) -> tuple[list[Sample], list[Sample]]:
    """Labeled images to train on, and the `train.holdout` ones, drawn with the seed, that only judge the student.

    Groups are held out whole, in a random order, until there are at least `train.holdout` images.

    raises: TrainingError if no image is left to train on
    """
    samples, num_held_out = index.of("labeled"), settings.train.holdout
    units = units_of(samples)
    held_out: set[int] = set()
    for unit in shuffled(calib.num_units(units), f"{settings.seed}/held_out"):
        if len(held_out) >= num_held_out:
            break
        held_out.update(np.flatnonzero(units == unit).tolist())
    if len(held_out) >= len(samples):
        groups = num_groups(samples)
        whole = "" if groups is None else ", and groups are held out whole"
        raise TrainingError(
            f"train.holdout is {num_held_out}, but there are only {in_groups(len(samples), groups)}{whole}; lower it"
        )
    trained = [sample for i, sample in enumerate(samples) if i not in held_out]
    return trained, [sample for i, sample in enumerate(samples) if i in held_out]


def num_stage2_steps(settings: Settings, num_unlabeled: int) -> int:
    """Number of steps of Stage II, whose epochs are passes over the unlabeled images."""
    return settings.stage2.epochs * max(1, num_unlabeled // settings.stage2.batch_unlabeled)


def lr_schedule(settings: Settings, steps_before: int, steps: int, steps_after: int) -> Callable[[int], float]:
    """The learning rate schedule of a stage: step of the stage -> factor of the initial learning rates.

    steps_before, steps_after: steps of the other stage; they count with `train.lr_scope: both` only
    """
    train = settings.train
    if train.lr_scope == "stage":
        steps_before = steps_after = 0
    num_steps = steps_before + steps + steps_after

    def factor(step: int) -> float:
        total = steps_before + step
        return poly_lr_factor(total, num_steps, train.power) * warmup_factor(total, train.warmup_steps)

    return factor


def plan_fingerprint(settings: Settings, index: SampleIndex) -> str:
    """Fingerprint of everything that Stage I depends on, except the pseudo-labels.

    Val images are part of it: the learning curve and the choice of the best student depend on them.
    """
    labeled, unlabeled = index.of("labeled"), index.of("unlabeled")
    divides_groups = settings.train.holdout and num_groups(labeled) is not None
    steps_after = num_stage2_steps(settings, len(unlabeled)) if settings.train.lr_scope == "both" else 0
    return receipt.fingerprint(
        {
            "version": VERSION,
            "seed": settings.seed,
            "classes": [settings.data.class_names, settings.data.mask_values],
            "labeled": _digests(labeled),
            **({"groups": [sample.group for sample in labeled]} if divides_groups else {}),
            "unlabeled": _digests(unlabeled),
            "val": _digests(index.of("val")),
            "train": settings.train.tracked(),
            "stage1": settings.stage1.tracked(),
            "steps_after": steps_after,  # the learning rate depends on them
        }
    )


def stage1_fingerprint(plan: str, labels: str | None, samples: Sequence[Sample]) -> str:
    """Fingerprint of everything that the weights of Stage I depend on.

    plan:    `plan_fingerprint`
    labels:  fingerprint of the pseudo-labels, if any
    samples: images that Stage I trains on
    """
    return receipt.fingerprint({"plan": plan, "labels": labels, "samples": [sample.id for sample in samples]})


def stage2_fingerprint(settings: Settings, stage1: str) -> str:
    """Fingerprint of everything that the weights of Stage II depend on. stage1: fingerprint of Stage I"""
    return receipt.fingerprint({"version": VERSION, "stage1": stage1, "stage2": settings.stage2.tracked()})


def _digests(samples: Sequence[Sample]) -> list[list[str]]:
    return [[sample.id, sample.image_digest, sample.mask_digest] for sample in samples]

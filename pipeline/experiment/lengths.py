"""How long each run of an experiment trains, in epochs and in optimiser steps."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.experiment.plan import Experiment, Run
from pipeline.experiment.tables import PAPER
from pipeline.settings import Settings

POINTS = 5  # of each stage's learning curve; equal for all, because the best of more points is higher


class Sizes(NamedTuple):
    """Numbers of images to train on."""

    labeled: int
    unlabeled: int


class Length(NamedTuple):
    """Length of both stages, in epochs and in optimiser steps."""

    epochs: tuple[int, int]
    steps: tuple[int, int]


def length_of(experiment: Experiment, run: Run, base: Sizes, own: Sizes) -> Length:
    """Length of a run's training.

    Under protocol epochs: the paper's E1 + E2, times the budget. A recipe of a single stage trains E1 + E2 in it;
    Stage I on pseudo-labels without Stage II trains E1. Under protocol steps: as many steps as the preset `paper`
    takes for its E1 + E2.

    base: numbers of images of the run whose images and maps all runs use
    own:  numbers of images of this run, which differ for targets masks
    """
    paper, settings = experiment.settings_of(PAPER), experiment.settings_of(run.recipe)
    first, second = (max(1, round(experiment.request.budget * e)) for e in (paper.stage1.epochs, paper.stage2.epochs))
    per_epoch = steps_per_epoch(settings, own)
    if run.unit == "epochs":
        epochs = _epochs(run, settings, first, second)
    else:
        of_paper = steps_per_epoch(paper, base)
        steps = _divided(run, first * of_paper[0], second * of_paper[1])
        epochs = _in_epochs(steps[0], per_epoch[0]), _in_epochs(steps[1], per_epoch[1])
    return Length(epochs, (epochs[0] * per_epoch[0], epochs[1] * per_epoch[1]))


def _in_epochs(steps: int, steps_per_epoch: int) -> int:
    return max(1, round(steps / steps_per_epoch)) if steps else 0


def _epochs(run: Run, own: Settings, first: int, second: int) -> tuple[int, int]:
    if run.shape == "first" and own.stage1.labels != "none":
        return first, 0
    return _divided(run, first, second)


def _divided(run: Run, first: int, second: int) -> tuple[int, int]:
    """Epochs or steps of each stage of `run`, if they are `first` and `second` in a run of both stages."""
    both = first + second
    if run.shape == "first":
        return both, 0
    if run.shape == "second":
        return 0, both
    if run.switch is not None:
        first = min(max(1, round(run.switch * both)), both - 1)
    return first, both - first


def steps_per_epoch(settings: Settings, sizes: Sizes) -> tuple[int, int]:
    """Batches per epoch of Stage I and of Stage II, counted as in `train/stage1.py` and `train/stage2.py`."""
    own, num_labeled = settings.stage1, sizes.labeled - settings.train.holdout
    if own.batch_labeled is not None:
        first = sizes.unlabeled // (own.batch_size - own.batch_labeled)
    else:
        first = (num_labeled + (0 if own.labels == "none" else sizes.unlabeled)) // own.batch_size
    return max(1, first), max(1, sizes.unlabeled // settings.stage2.batch_unlabeled)


def curve_interval(epochs: int) -> int:
    """Number of epochs between two points of a stage's learning curve, so that each stage has about POINTS points."""
    return max(1, round(epochs / POINTS))

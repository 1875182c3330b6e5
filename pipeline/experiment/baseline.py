"""The baseline of a run: its student, trained for as many steps on the labeled images alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.datasets import SampleIndex, units_of
from pipeline.experiment.lengths import Length, Sizes, curve_interval, steps_per_epoch
from pipeline.experiment.pairs import Areas, Difference, difference
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings

LABELS_ALONE: dict[str, Any] = {
    "baseline": False,
    "train.framework": "plain",
    "stage1.labels": "none",
    "stage1.batch_labeled": None,
    "stage1.set_loss": "none",
}
"""Overrides of a run, full name -> value, that leave the pseudo-labels out. All other settings are those of the run."""


def baseline_length(settings: Settings, index: SampleIndex) -> Length:
    """The baseline has one stage, of as many steps as both stages of the run; at least one pass over its images."""
    sizes = Sizes(len(index.of("labeled")), len(index.of("unlabeled")))
    first, second = steps_per_epoch(settings, sizes)
    steps = settings.stage1.epochs * first + settings.stage2.epochs * second
    alone = settings.stage1.model_copy(update={"labels": "none", "batch_labeled": None})
    per_epoch, _ = steps_per_epoch(settings.model_copy(update={"stage1": alone}), sizes)
    epochs = max(1, round(steps / per_epoch))
    return Length((epochs, 0), (epochs * per_epoch, 0))


def baseline_changes(settings: Settings, index: SampleIndex) -> dict[str, Any]:
    """Overrides of the run file that train and measure the baseline, in a folder in that of the run."""
    epochs, _ = baseline_length(settings, index).epochs
    folder = Run(settings).folder.baseline
    return {
        **settings.origin.overrides,
        **LABELS_ALONE,
        "stage1.epochs": epochs,
        "stage2.epochs": 0,
        "train.validate_every": curve_interval(epochs),
        "results": str(folder.parent),
        "name": folder.name,
    }


def baseline_run(settings: Settings, index: SampleIndex) -> Run:
    """The run of the baseline, whose training and measurement are those of any run."""
    return Run(load_settings(settings.origin.run or settings.name, baseline_changes(settings, index)))


def against_baseline(settings: Settings) -> Difference | None:
    """mIoU of the run's last student minus that of the baseline, paired by val image.

    returns: None if the baseline or the run's evaluation has not finished with these settings, or with too few images
    raises:  StoreError if what they measured has changed
    """
    run = Run(settings)
    if not (run.is_current("baseline") and run.is_current("evaluate")):
        return None
    index = run.samples("evaluate")
    alone = baseline_run(settings, index)
    ours, theirs = _areas(run, run.recorded("evaluate")["final"]), _areas(alone, "stage1")
    units = None if settings.data.groups is None else units_of(index.of("val"))
    return difference([ours], [theirs], settings.evaluate.absent, unit_of_image=units)


def _areas(run: Run, stage: str) -> Areas:
    """int64 [N, 3, K] of the last student of a stage, as `evaluate` wrote them."""
    run.check_file("evaluate", run.folder.areas)
    with np.load(run.folder.areas) as areas:
        return np.asarray(areas[stage], np.int64)

"""The learning curve of a stage: a point every few epochs, warnings of the collapse guard, and the best student."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.files import replacing_folder
from pipeline.folder import Folder
from train.engine import collapse
from train.engine.stage import Stage
from train.engine.state import MEASURES, TrainingState
from train.machine.processes import summed, world
from train.students import save_network

log = logging.getLogger(__name__)


def add_to_history(state: TrainingState, stage: Stage, miou: float | None) -> None:
    """Add a point to the learning curve, with the warnings of the collapse guard, and log it.

    miou: on the val images; None if their masks hold no class
    """
    device = state.student.compute.device
    sums = summed(torch.tensor(state.measures, dtype=torch.float64).sum(dim=0).to(device)) / len(state.measures)
    means = mean_measures([sums.tolist()])
    predicted, labeled = (
        collapse.fractions(summed(counts.clone()).tolist()) for counts in (state.num_predicted, state.num_labeled)
    )
    losses = [entry["loss"] for entry in state.history] + [means["loss"]]
    warnings = _class_warnings(stage, state.class_fractions, predicted, labeled) + _loss_warnings(losses)
    epoch = state.step // stage.steps_per_epoch
    lr = stage.images.train.lr * stage.lr_factor(state.step - 1)
    point = {"epoch": epoch, "step": state.step, **means, "lr": lr, "miou": miou, "warnings": warnings}
    state.history.append(point)
    state.measures, state.class_fractions = [], None if predicted is None else predicted.tolist()
    state.num_predicted.zero_()
    state.num_labeled.zero_()
    text = "no class in the masks of the val images" if miou is None else f"mIoU {miou:.4f} on the val images"
    log.info("%s: epoch %d of %d, loss %.4f, %s", stage.name, epoch, stage.num_epochs, means["loss"], text)
    for warning in warnings:
        log.warning("%s: epoch %d: %s", stage.name, epoch, warning)


def _class_warnings(
    stage: Stage, before: list[float] | None, predicted: collapse.Fractions | None, labeled: collapse.Fractions | None
) -> list[str]:
    if before is None or predicted is None or labeled is None:
        return []
    names = stage.images.data.class_names
    return [
        f"the student predicts {names[k]} on {100 * predicted[k]:.2f} % of the pixels ({100 * before[k]:.2f} % at the "
        f"previous validation), but {100 * labeled[k]:.2f} % of the labeled pixels are {names[k]}"
        for k in collapse.collapsed_classes(np.array(before), predicted, labeled)
    ]


def _loss_warnings(losses: Sequence[float]) -> list[str]:
    if not collapse.loss_jumped(losses):
        return []
    return [f"the loss has risen to {losses[-1]:.4f}; its lowest value was {min(losses[:-1]):.4f}"]


def save_if_best(state: TrainingState, stage: Stage, folder: Folder) -> bool:
    """Save the student as the best one if the last point of the curve has a higher mIoU than all points before.

    folder:  of the run
    returns: whether it was saved
    """
    point = state.history[-1]
    if point["miou"] is None or (state.best is not None and state.best["miou"] >= point["miou"]):
        return False
    state.best = {"epoch": point["epoch"], "miou": point["miou"]}
    if world().is_main:
        with replacing_folder(folder.best_student(stage.name)) as part:
            save_network(state.final_student.model, part)
    return True


def mean_measures(rows: Sequence[Sequence[float]], num_processes: int = 1) -> dict[str, float | None]:
    """Means of MEASURES over some steps, by name; None for a measure that the objective does not have.

    rows:          float [N, 5], MEASURES of this process in each step
    num_processes: factor that extrapolates the sums of this process to all processes
    """
    means = [math.fsum(column) / len(rows) * num_processes for column in zip(*rows, strict=True)]
    return {name: None if math.isnan(value) else value for name, value in zip(MEASURES, means, strict=True)}

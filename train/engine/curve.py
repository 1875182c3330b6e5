"""The learning curve of a stage: a point every few epochs, what the collapse guard says of it, and the best student."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from train.engine import collapse
from train.engine.stage import Stage
from train.engine.state import MEASURES, TrainingState
from train.machine.processes import summed, world
from train.students.allspark.network import save_model

log = logging.getLogger(__name__)


def add_to_history(state: TrainingState, stage: Stage, miou: float | None) -> None:
    """One more point of the learning curve, with what the collapse guard has to say."""
    device = state.student.compute.device
    sums = summed(torch.tensor(state.measures, dtype=torch.float64).sum(dim=0).to(device)) / len(state.measures)
    means = mean_measures([sums.tolist()])
    predicted, labeled = (
        collapse.shares(summed(counts.clone()).tolist()) for counts in (state.num_predicted, state.num_labeled)
    )
    losses = [entry["loss"] for entry in state.history] + [means["loss"]]
    warnings = _collapses(stage, state.shares, predicted, labeled) + _loss_warnings(losses)
    epoch = state.step // stage.steps_per_epoch
    lr = stage.images.train.lr * stage.lr_factor(state.step - 1)
    point = {"epoch": epoch, "step": state.step, **means, "lr": lr, "miou": miou, "warnings": warnings}
    state.history.append(point)
    state.measures, state.shares = [], None if predicted is None else predicted.tolist()
    state.num_predicted.zero_()
    state.num_labeled.zero_()
    text = "no class in the val masks" if miou is None else f"mIoU {miou:.4f} on val"
    log.info("%s: epoch %d of %d, loss %.4f, %s", stage.name, epoch, stage.num_epochs, means["loss"], text)
    for warning in warnings:
        log.warning("%s: epoch %d: %s", stage.name, epoch, warning)


def _collapses(
    stage: Stage, before: list[float] | None, predicted: collapse.Shares | None, labeled: collapse.Shares | None
) -> list[str]:
    if before is None or predicted is None or labeled is None:
        return []
    names = stage.images.data.class_names
    return [
        f"{names[k]} has left its bounds: the student predicts it on {100 * predicted[k]:.2f} % of the pixels, at the "
        f"point before on {100 * before[k]:.2f} %; of the labeled pixels {100 * labeled[k]:.2f} % are {names[k]}"
        for k in collapse.collapsed_classes(np.array(before), predicted, labeled)
    ]


def _loss_warnings(losses: Sequence[float]) -> list[str]:
    if not collapse.loss_jumped(losses):
        return []
    return [f"the loss has risen to {losses[-1]:.4f}, from {min(losses[:-1]):.4f} at its lowest"]


def keep_best(state: TrainingState, folder: Path) -> bool:
    """Keep the student of the last point of the curve beside the last one if no point before had as high a mIoU.

    returns: whether it was kept
    """
    point = state.history[-1]
    if point["miou"] is None or (state.best is not None and state.best["miou"] >= point["miou"]):
        return False
    state.best = {"epoch": point["epoch"], "miou": point["miou"]}
    if world().is_main:
        part = folder / "best.part"
        shutil.rmtree(part, ignore_errors=True)
        save_model(state.final_student.model, part)
        shutil.rmtree(folder / "best", ignore_errors=True)
        part.replace(folder / "best")
    return True


def mean_measures(rows: Sequence[Sequence[float]], num_processes: int = 1) -> dict[str, float | None]:
    """MEASURES by name, None for those that the objectives do not have; one process's share stands for all."""
    sums = [math.fsum(column) / len(rows) * num_processes for column in zip(*rows, strict=True)]
    return {name: None if math.isnan(value) else value for name, value in zip(MEASURES, sums, strict=True)}

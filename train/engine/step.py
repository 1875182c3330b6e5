"""One training step, in time order: batch -> weak views -> objective (teacher, strong views) -> losses -> update."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pipeline.datasets import IGNORE_INDEX
from train.data import Example
from train.engine.stage import Stage
from train.engine.state import TrainingState
from train.machine.processes import summed, world
from train.objective import Objective, num_pixels, step_losses
from train.student import Student
from train.students import dropout_rows
from train.views import Views, num_rows, weak_views_of


def training_step(state: TrainingState, stage: Stage, batch: Sequence[Example]) -> Tensor:
    """One step of the optimiser; returns this process's part of its MEASURES, float32 [4], still on the device.

    batch: this process's examples, in the order of `train.engine.stage.own_draws`
    """
    student = state.student
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * stage.lr_factor(state.step)
    state.optimizer.zero_grad()
    with fastest_kernels():
        # Batch -> weak views of each micro-batch.
        micro_batches = weak_views_by_micro_batch(state, stage, batch)
        # Weak views -> targets and strong views. In Stage II the teacher labels the unlabeled images here.
        objectives = [stage.objective(state, views, state.step) for views in micro_batches]
        # A term is a mean over the pixels of the whole batch: of all micro-batches of all processes.
        num_pixels_of_step = summed(num_pixels(objectives))
        num_places, measures = num_rows(micro_batches[0].batch_size), []
        for objective in objectives:
            is_last = objective is objectives[-1]
            with dropout_rows(objective.rows(), num_places), synced_gradients(student, is_last):
                # Images -> logits -> a loss for each term -> their weighted sum -> gradients.
                logits = student.coarse_logits(objective.images(), student.trained, **objective.arguments())
                losses = step_losses(objective, logits, num_pixels_of_step)
                loss = weighted_sum(objective, losses)
                # gradients are averaged over the processes, and this is a part of one mean
                torch.autograd.backward(state.scaler.scale(loss * world().size))
            count_classes(state, objective, logits.detach())
            measures.append(measures_of(objective, losses.detach(), loss.detach(), stage.num_micro_batches))
    # Gradients -> weights -> moving average, which is the teacher of the next step.
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    if state.average is not None:
        state.average.update(state.student.model)
    return torch.stack(measures).sum(dim=0)


@contextlib.contextmanager
def fastest_kernels() -> Iterator[None]:
    """cuDNN measures its algorithms once for each size of input, which pays for crops but not for whole images."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def weak_views_by_micro_batch(state: TrainingState, stage: Stage, batch: Sequence[Example]) -> list[Views]:
    """The weak views of each micro-batch of this process."""
    assert len({example.draw.place for example in batch}) == len(batch), "examples of `own_draws` have their own places"
    device, crop = state.student.compute.device, stage.images.train.crop
    groups = [list(group) for _, group in groupby(batch, key=lambda example: example.draw.micro_batch)]
    batch_size = stage.num_micro_batches * len(groups[0])
    return [weak_views_of(group, batch_size, crop, device) for group in groups]


def synced_gradients(student: Student, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Context of a backward pass; the last one of a step averages the gradients over the processes."""
    shared = student.trained
    return shared.no_sync() if isinstance(shared, DistributedDataParallel) and not is_last else contextlib.nullcontext()


def weighted_sum(objective: Objective, losses: Tensor) -> Tensor:
    """float32 []; losses: float32 [T]. Weights one by one: a tensor of them would be copied to the device, and wait."""
    return torch.stack([term.weight * loss for term, loss in zip(objective.terms, losses, strict=True)]).sum()


def measures_of(objective: Objective, losses: Tensor, loss: Tensor, num_micro_batches: int) -> Tensor:
    """float32 [4], a micro-batch's part of MEASURES; NaN for one that the objective does not have."""
    nan = torch.full_like(loss, math.nan)
    by_name = {
        name: [one for term, one in zip(objective.terms, losses, strict=True) if term.name == name]
        for name in ("labeled", "unlabeled")
    }
    means = [torch.stack(values).mean() if values else nan for values in by_name.values()]
    confident = nan if objective.confident is None else objective.confident / num_micro_batches
    return torch.stack([loss, *means, confident])


def count_classes(state: TrainingState, objective: Objective, logits: Tensor) -> None:
    """Add to the state, over the pixels with a target: classes of the labeled ones, and predicted classes."""
    for term, coarse in zip(objective.terms, torch.split(logits, objective.sizes()), strict=True):
        if not len(term.images):
            continue
        targets = functional.interpolate(term.targets[:, None], size=coarse.shape[-2:], mode="nearest")[:, 0]
        if term.name == "labeled":
            _count(state.num_labeled, targets)
        if term.name == "unlabeled" or len(objective.terms) == 1:
            predicted = coarse.argmax(dim=1).to(torch.uint8)
            _count(state.num_predicted, predicted.masked_fill(targets == IGNORE_INDEX, IGNORE_INDEX))


def _count(total: Tensor, classes: Tensor) -> None:
    """Add the classes, uint8 [...], to int64 [K]; IGNORE_INDEX is not counted. No bincount: it waits for a GPU."""
    bins = classes.flatten().long().clamp(max=len(total))
    counts = total.new_zeros(len(total) + 1).scatter_add_(0, bins, torch.ones_like(bins))
    total += counts[:-1]


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of dropout and drop path in one step, so that a resumed run draws what an undisturbed one would."""
    return random.Random(f"{seed}/{stage}/step/{step}").getrandbits(63)

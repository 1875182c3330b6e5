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
    """Take one optimisation step.

    batch:   the examples of this process, in the order of `train.engine.stage.own_draws`
    returns: float32 [5] on the device: the contribution of this process to MEASURES, which are sums over processes
    """
    student = state.student
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * stage.lr_factor(state.step)
    state.optimizer.zero_grad()
    with fastest_kernels():
        # Batch -> weak views of each micro-batch.
        micro_batches = weak_views_by_micro_batch(state, stage, batch)
        # Weak views -> targets and strong views. In Stage II the teacher labels the unlabeled images at this point.
        objectives = [stage.objective(state, views, state.step) for views in micro_batches]
        # A term is a mean over the pixels of the whole batch: over all micro-batches of all processes.
        num_pixels_of_step = summed(num_pixels(objectives))
        num_rows_of_batch, measures = num_rows(micro_batches[0].batch_size), []
        for objective in objectives:
            is_last = objective is objectives[-1]
            with dropout_rows(objective.rows(), num_rows_of_batch), synced_gradients(student, is_last):
                # Images -> logits -> a loss per term -> their weighted sum -> gradients.
                logits = student.coarse_logits(objective.images(), student.trained, **objective.arguments())
                losses = step_losses(objective, logits, num_pixels_of_step)
                loss = weighted_sum(objective, losses)
                # The losses of the processes add up to the loss of the step, but gradients are averaged over processes.
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
    """Context in which cuDNN measures its algorithms once per input size; worth it for crops, not for whole images."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def weak_views_by_micro_batch(state: TrainingState, stage: Stage, batch: Sequence[Example]) -> list[Views]:
    """The weak views of each micro-batch of this process."""
    positions = {example.draw.position for example in batch}
    assert len(positions) == len(batch), "the draws of `own_draws` have different positions"
    device, crop = state.student.compute.device, stage.images.train.crop
    groups = [list(group) for _, group in groupby(batch, key=lambda example: example.draw.micro_batch)]
    batch_size = stage.num_micro_batches * len(groups[0])
    return [weak_views_of(group, batch_size, crop, device) for group in groups]


def synced_gradients(student: Student, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Context of a backward pass; in the last one of a step the gradients are averaged over the processes."""
    network = student.trained
    if isinstance(network, DistributedDataParallel) and not is_last:
        return network.no_sync()
    return contextlib.nullcontext()


def weighted_sum(objective: Objective, losses: Tensor) -> Tensor:
    """The loss of the objective, float32 [], from its losses, float32 [T].

    Each loss is multiplied separately, because the host would wait for the copy of a tensor of weights to the device.
    """
    return torch.stack([weight * loss for weight, loss in zip(objective.weights(), losses, strict=True)]).sum()


def measures_of(objective: Objective, losses: Tensor, loss: Tensor, num_micro_batches: int) -> Tensor:
    """The contribution of a micro-batch to MEASURES: float32 [5]; NaN for a measure that the objective does not have.

    losses: float32 [T], of the terms and of the sets
    loss:   float32 [], their weighted sum
    """
    nan = torch.full_like(loss, math.nan)
    names = [*(term.name for term in objective.terms), *([] if objective.sets is None else ["sets"])]
    by_name = {
        wanted: [one for name, one in zip(names, losses, strict=True) if name == wanted]
        for wanted in ("labeled", "unlabeled", "sets")
    }
    means = [torch.stack(values).mean() if values else nan for values in by_name.values()]
    confident = nan if objective.confident is None else objective.confident / num_micro_batches
    return torch.stack([loss, *means, confident])


def count_classes(state: TrainingState, objective: Objective, logits: Tensor) -> None:
    """Add to the state's counts, over the pixels that have a target: labeled classes and predicted classes.

    logits: float [B, K, h, w] of the objective's images
    """
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
    """Add the counts of the classes, uint8 [...], to `total`, int64 [K]; IGNORE_INDEX is not counted.

    Not by torch.bincount, for which the host waits for the GPU.
    """
    bins = classes.flatten().long().clamp(max=len(total))
    counts = total.new_zeros(len(total) + 1).scatter_add_(0, bins, torch.ones_like(bins))
    total += counts[:-1]


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of dropout and drop path in a step, so that a resumed run draws the same numbers as an uninterrupted one."""
    return random.Random(f"{seed}/{stage}/step/{step}").getrandbits(63)

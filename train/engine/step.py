"""One step of the optimiser: a batch, in as many parts and processes as the settings say."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from pipeline.datasets import IGNORE_INDEX
from train.data import Example
from train.engine.stage import Stage, num_shares, own_shares
from train.engine.state import TrainingState
from train.lesson import Lesson, hard_lesson, num_pixels, part_losses
from train.machine.processes import summed, world
from train.student import Student
from train.students import dropout_rows
from train.views import Views, num_rows, views_of


def optimise(state: TrainingState, stage: Stage, examples: Sequence[Example]) -> Tensor:
    """One step of the optimiser; returns this process's part of its MEASURES, float32 [4], still on the device.

    examples: this process's shares of the batch, one after the other
    """
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * stage.lr_factor(state.step)
    with fixed_sizes():
        shares = shares_of(stage, state, examples)
        lessons = [stage.lesson(state, views, state.step) for views in shares]
        pixels = summed(num_pixels(lessons))
        state.optimizer.zero_grad()
        measures = torch.stack(
            [
                teach(state, lesson, pixels, num_rows(shares[0].batch_size), num_shares(stage), lesson is lessons[-1])
                for lesson in lessons
            ]
        ).sum(dim=0)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    if state.average is not None:
        state.average.update(state.student.model)
    return measures


@contextlib.contextmanager
def fixed_sizes() -> Iterator[None]:
    """cuDNN looks for its fastest algorithm once for each size, which pays for crops but not for whole images."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def shares_of(stage: Stage, state: TrainingState, examples: Sequence[Example]) -> list[Views]:
    """The weak views of each share that this process computes."""
    device, crop = state.student.compute.device, stage.images.train.crop
    groups = own_shares(stage, state.step)
    batch_size = num_shares(stage) * len(groups[0])
    rest = iter(examples)
    return [
        views_of([next(rest) for _ in group], [place for place, _ in group], batch_size, crop, device)
        for group in groups
    ]


def teach(
    state: TrainingState, lesson: Lesson, pixels: Tensor, num_rows: int, num_shares: int, is_last: bool
) -> Tensor:
    """Add the gradients of one share of a batch; the last one sums them over the processes."""
    student = state.student
    with dropout_rows(lesson.rows(), num_rows), _unsummed(student, is_last):
        logits = student.coarse_logits(lesson.images(), student.trained, **lesson.arguments())
        if lesson.hard is not None:
            taught = hard_lesson(lesson, logits.detach())
            losses = part_losses(taught, logits, summed(num_pixels([taught])))
        else:
            losses = part_losses(lesson, logits, pixels)
        # weights one by one: a tensor of them would be copied to the device, which waits for it
        total = torch.stack([part.weight * loss for part, loss in zip(lesson.parts, losses, strict=True)]).sum()
        # gradients are averaged over the processes, and this is a share of one mean
        torch.autograd.backward(state.scaler.scale(total * world().size))
    count_classes(state, lesson, logits.detach())
    return measures_of(lesson, losses.detach(), total.detach(), num_shares)


def _unsummed(student: Student, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    shared = student.trained
    return shared.no_sync() if isinstance(shared, DistributedDataParallel) and not is_last else contextlib.nullcontext()


def measures_of(lesson: Lesson, losses: Tensor, total: Tensor, num_shares: int) -> Tensor:
    """float32 [4], a share's part of MEASURES; NaN for one that the lesson does not have."""
    nan = torch.full_like(total, math.nan)
    by_name = {
        name: [loss for part, loss in zip(lesson.parts, losses, strict=True) if part.name == name]
        for name in ("labeled", "unlabeled")
    }
    means = [torch.stack(values).mean() if values else nan for values in by_name.values()]
    kept = nan if lesson.kept is None else lesson.kept / num_shares
    return torch.stack([total, *means, kept])


def count_classes(state: TrainingState, lesson: Lesson, logits: Tensor) -> None:
    """Add to the state, of the pixels that are taught a class: the labelled ones' classes, and what is predicted."""
    for part, coarse in zip(lesson.parts, torch.split(logits, lesson.sizes()), strict=True):
        if not len(part.images):
            continue
        targets = functional.interpolate(part.targets[:, None], size=coarse.shape[-2:], mode="nearest")[:, 0]
        if part.name == "labeled":
            _count(state.num_labeled, targets)
        if part.name == "unlabeled" or len(lesson.parts) == 1:
            predicted = coarse.argmax(dim=1).to(torch.uint8)
            _count(state.num_predicted, predicted.masked_fill(targets == IGNORE_INDEX, IGNORE_INDEX))


def _count(total: Tensor, classes: Tensor) -> None:
    """Add the classes, uint8 [...], to int64 [K]; IGNORE_INDEX is not counted. No bincount: it waits for a GPU."""
    places = classes.flatten().long().clamp(max=len(total))
    counts = total.new_zeros(len(total) + 1).scatter_add_(0, places, torch.ones_like(places))
    total += counts[:-1]


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of dropout and drop path in one step, so that a resumed run draws what an undisturbed one would."""
    return random.Random(f"{seed}/{stage}/step/{step}").getrandbits(63)

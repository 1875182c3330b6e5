"""The definition of a training stage, and how its batches are divided among processes and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import TrainingError
from train.data import Draw, TrainingImages
from train.engine.state import TrainingState
from train.machine.processes import world
from train.objective import Objective
from train.views import Views


class Stage(NamedTuple):
    """The definition of a training stage."""

    name: str
    fingerprint: str
    """Digest of everything that the weights depend on; a checkpoint with another fingerprint is not resumed."""
    num_epochs: int
    steps_per_epoch: int
    images: TrainingImages
    draws: Callable[[int], Sequence[list[Draw]]]
    """Step -> its batch, in groups (labeled, unlabeled); each group is divided equally into micro-batches."""
    objective: Callable[[TrainingState, Views, int], Objective]
    """State, weak views of a micro-batch, step -> targets, strong views and weights of its loss terms."""
    lr_factor: Callable[[int], float]
    """Step -> factor that the initial learning rates are multiplied by."""
    before_epoch: Callable[[TrainingState], None] = lambda state: None
    """Called before the first step of each epoch."""
    lambda_of: Callable[[int], float | None] = lambda step: None
    """Step -> lambda, the weight of the unlabeled loss, for the log; None for a stage without it."""

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    @property
    def num_micro_batches(self) -> int:
        """Number of micro-batches that a batch is divided into, over all processes."""
        return world().size * self.images.train.accumulate


def check_batch(stage: Stage) -> None:
    """Raise TrainingError unless every group of a batch can be divided equally into micro-batches."""
    train, count = stage.images.train, stage.num_micro_batches
    for group in stage.draws(0) if stage.num_steps else ():
        if len(group) % count:
            raise TrainingError(
                f"{stage.name} draws {len(group)} images of a batch from one list, which do not divide equally into "
                f"{count} micro-batches ({world().size} processes x train.accumulate {train.accumulate}); set the "
                f"batch sizes of {stage.name} to multiples of {count}, or lower train.processes or train.accumulate"
            )


def own_draws(stage: Stage, step: int) -> list[Draw]:
    """The draws of this process, each with its position in the whole batch and its micro-batch, in that order.

    Every micro-batch has images of all groups.
    """
    first = world().rank * stage.images.train.accumulate
    own = range(first, first + stage.images.train.accumulate)
    return sorted(
        (draw for draw in _whole_batch(stage.draws(step), stage.num_micro_batches) if draw.micro_batch in own),
        key=lambda draw: (draw.micro_batch, draw.position),
    )


def _whole_batch(groups: Sequence[list[Draw]], num_micro_batches: int) -> list[Draw]:
    """All draws of a batch with their positions, counted from 0 through the groups, and their micro-batches."""
    numbered = [(draw, i * num_micro_batches // len(group)) for group in groups for i, draw in enumerate(group)]
    return [
        draw._replace(position=position, micro_batch=micro_batch)
        for position, (draw, micro_batch) in enumerate(numbered)
    ]

"""What one stage is made of, and how processes and micro-batches divide its batches."""

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
    """What one stage is made of."""

    name: str
    fingerprint: str
    """Changes with everything that changes the weights; a checkpoint of another fingerprint is not resumed."""
    num_epochs: int
    steps_per_epoch: int
    images: TrainingImages
    draws: Callable[[int], Sequence[list[Draw]]]
    """Step -> its batch, in groups (labeled, unlabeled), each of which is divided equally into micro-batches."""
    objective: Callable[[TrainingState, Views, int], Objective]
    """Weak views of a micro-batch at a step -> the targets, strong views and weights of its loss terms."""
    lr_factor: Callable[[int], float]
    """Step -> factor of the initial learning rates."""
    before_epoch: Callable[[TrainingState], None] = lambda state: None
    lambda_of: Callable[[int], float | None] = lambda step: None
    """Step -> weight of the unlabeled loss, for the log."""

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    @property
    def num_micro_batches(self) -> int:
        """Parts that a batch is computed in, over all processes."""
        return world().size * self.images.train.accumulate


def check_batch(stage: Stage) -> None:
    """TrainingError unless every group of a batch can be divided equally into micro-batches."""
    train, count = stage.images.train, stage.num_micro_batches
    for group in stage.draws(0) if stage.num_steps else ():
        if len(group) % count:
            raise TrainingError(
                f"{stage.name} has {len(group)} images of a kind in a batch, which {world().size} processes x "
                f"train.accumulate {train.accumulate} cannot share equally; change {stage.name}'s batch sizes to "
                f"multiples of {count}, or use fewer processes or parts"
            )


def own_draws(stage: Stage, step: int) -> list[Draw]:
    """This process's images of a batch, each with its place and its micro-batch; every micro-batch has all groups."""
    first = world().rank * stage.images.train.accumulate
    own = range(first, first + stage.images.train.accumulate)
    return sorted(
        (draw for draw in _placed(stage.draws(step), stage.num_micro_batches) if draw.micro_batch in own),
        key=lambda draw: (draw.micro_batch, draw.place),
    )


def _placed(groups: Sequence[list[Draw]], num_micro_batches: int) -> list[Draw]:
    """All images of a batch with their places, counted from 0 through the groups, and their micro-batches."""
    numbered = [
        (draw, position * num_micro_batches // len(group)) for group in groups for position, draw in enumerate(group)
    ]
    return [draw._replace(place=place, micro_batch=number) for place, (draw, number) in enumerate(numbered)]

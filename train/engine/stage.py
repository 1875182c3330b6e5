"""What one stage is made of, and how processes share its batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.errors import TrainingError
from train.data import Draw, TrainingImages
from train.engine.state import TrainingState
from train.lesson import Lesson
from train.machine.processes import world
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
    """Step -> its batch, in groups (labelled, unlabelled); processes share each group equally."""
    lesson: Callable[[TrainingState, Views, int], Lesson]
    """What a batch, or a process's share of it, teaches at a step."""
    lr_factor: Callable[[int], float]
    """Step -> what the initial learning rates are multiplied by."""
    before_epoch: Callable[[TrainingState], None] = lambda state: None
    lambda_of: Callable[[int], float | None] = lambda step: None
    """Step -> weight of the unlabelled loss, for the log."""

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch


def check_shares(stage: Stage) -> None:
    """TrainingError unless every group of a batch can be divided among processes and parts."""
    train, count = stage.images.train, num_shares(stage)
    for group in stage.draws(0) if stage.num_steps else ():
        if len(group) % count:
            raise TrainingError(
                f"{stage.name} has {len(group)} images of a kind in a batch, which {world().size} processes x "
                f"train.accumulate {train.accumulate} cannot share equally; change {stage.name}'s batch sizes to "
                f"multiples of {count}, or use fewer processes or parts"
            )


def num_shares(stage: Stage) -> int:
    """Parts that a batch is computed in, over all processes."""
    return world().size * stage.images.train.accumulate


def own_shares(stage: Stage, step: int) -> list[list[tuple[int, Draw]]]:
    """This process's shares of a batch: draws with their places in the whole batch; each share has all groups."""
    count, per_process = num_shares(stage), stage.images.train.accumulate
    numbered = _numbered(stage.draws(step))
    first = world().rank * per_process
    return [
        [entry for group in numbered for entry in _share(group, number, count)]
        for number in range(first, first + per_process)
    ]


def _numbered(groups: Sequence[list[Draw]]) -> list[list[tuple[int, Draw]]]:
    places = itertools.count()
    return [[(next(places), draw) for draw in group] for group in groups]


def _share(group: list[tuple[int, Draw]], number: int, count: int) -> list[tuple[int, Draw]]:
    size = len(group) // count
    return group[number * size : (number + 1) * size]

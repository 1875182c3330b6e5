"""Masks that come back from other tools, and what the names of their labels mean to a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.exchange.labels import ABSTAIN, Label
from pipeline.settings import did_you_mean

UNANNOTATED = "background"  # what CVAT calls pixels that nobody annotated


class Incoming(NamedTuple):
    """One mask that comes back. `read` gives it as a label, or raises DatasetError."""

    id: str
    where: str
    read: Callable[[], Label]


def class_named(name: str, class_names: Sequence[str], where: str) -> int:
    """Index of the class of this name; 255 for `abstain`, and for a `background` that is no class of the run.

    raises: DatasetError for any other name
    """
    if name in class_names:
        return class_names.index(name)
    if name in (ABSTAIN, UNANNOTATED):
        return IGNORE_INDEX
    hint = did_you_mean(name, class_names)
    raise DatasetError(f"{where} has pixels of {name!r}, which is no class of the run{hint}; use the run's labels")

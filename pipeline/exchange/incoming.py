"""Masks to be imported from other tools, and the classes that their label names stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.exchange.labels import ABSTAIN, Label
from pipeline.settings import did_you_mean

UNANNOTATED = "background"  # CVAT's name of pixels that are not annotated


class Incoming(NamedTuple):
    """One mask to be imported.

    id:    id of its image
    where: file (and entry) for messages
    read:  reads the label, uint8 [H, W], or raises DatasetError
    """

    id: str
    where: str
    read: Callable[[], Label]


def class_named(name: str, class_names: Sequence[str], where: str) -> int:
    """Index of the class with this name; 255 for `abstain`, and for `background` if the run has no such class.

    raises: DatasetError for any other name
    """
    if name in class_names:
        return class_names.index(name)
    if name in (ABSTAIN, UNANNOTATED):
        return IGNORE_INDEX
    hint = did_you_mean(name, class_names)
    raise DatasetError(
        f"{where} has pixels of {name!r}, which is no class of the run{hint}; use only classes of the run"
    )

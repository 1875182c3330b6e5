"""Masks to be imported from other tools, and the classes that their label names stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.exchange.labels import ABSTAIN, Label
from pipeline.settings import did_you_mean

ROBOFLOW = re.compile(r"(?P<stem>.+)_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9A-Za-z]+(?:_mask)?", re.IGNORECASE)
"""Roboflow exports `photo.jpg` as `photo_jpg.rf.0123abcd.jpg`, and its mask as `photo_jpg.rf.0123abcd_mask.png`."""
UNANNOTATED = "background"  # CVAT's name of pixels that are not annotated


Size = tuple[int, int]
"""Height and width in pixels."""


class Incoming(NamedTuple):
    """One mask to be imported.

    id:           id of its image
    where:        file (and entry) for messages
    read:         reads the label, uint8 [H, W], if it has the size of its image, or raises DatasetError
    is_annotated: False if the file lists the image, but nothing was drawn in it
    """

    id: str
    where: str
    read: Callable[[Size], Label]
    is_annotated: bool = True

    def for_image_of(self, ids: Container[str]) -> Incoming:
        """The mask, with the id that its image had before Roboflow renamed it, if only that one is among the ids."""
        original = ROBOFLOW.fullmatch(self.id)
        if self.id in ids or original is None or original["stem"] not in ids:
            return self
        return self._replace(id=original["stem"])


def refuse_size(where: str, found: Size, expected: Size) -> None:
    """DatasetError if a mask has another size than its image. It is called before the mask is decoded."""
    if found != expected:
        raise DatasetError(
            f"{where} is {found[1]} x {found[0]}, but its image is {expected[1]} x {expected[0]}; resize the mask"
        )


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

"""What every reader of annotations returns: the images that a file annotates, each with a mask and the names in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DatasetError
from pipeline.files import image_id
from pipeline.sources.convert_masks.drawing import Drawing, Outline, draw
from pipeline.sources.layouts import path_id

log = logging.getLogger(__name__)

ROBOFLOW = re.compile(r"(?P<stem>.+)_(?:jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9A-Za-z]+(?:_mask)?", re.IGNORECASE)
"""Roboflow exports `photo.jpg` as `photo_jpg.rf.0123abcd.jpg`, and its mask as `photo_jpg.rf.0123abcd_mask.png`."""
VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "abstain", "_ignore_", "__ignore__")
"""Labels that are no class: their pixels are void."""
MAX_SHOWN = 5

Size = tuple[int, int]
"""Height and width in pixels."""


class Drawn(NamedTuple):
    """The mask of one image.

    mask:        uint8 [H, W]: k = the k-th name from 1 on, 0 = nothing was drawn there, 255 = void
    num_covered: number of pixels that lie in outlines of several names
    """

    mask: npt.NDArray[np.uint8]
    num_covered: int = 0


class AnnotatedImage(NamedTuple):
    """An image that a file annotates.

    file_name:    as in the file; folders may be separated as in Windows
    where:        file (and entry) for messages
    names:        of the values 1, 2, ... of the mask
    draw:         draws the mask of an image of this size, or raises DatasetError
    is_annotated: False if the file lists the image, but nothing was drawn in it
    other_names:  file names under which the image may also be found
    """

    file_name: str
    where: str
    names: Sequence[str]
    draw: Callable[[Size], Drawn]
    is_annotated: bool = True
    other_names: Sequence[str] = ()

    def id_among(self, ids: Container[str]) -> str:
        """Id of the image: of the first of its names that is among the ids, with or without what Roboflow adds."""
        names = [self.file_name, *self.other_names]
        stems = [stem for name in names for stem in stems_of(name)]
        originals = [match["stem"] for stem in stems if (match := ROBOFLOW.fullmatch(stem))]
        return next((stem for stem in [*stems, *originals] if stem in ids), stem_of(self.file_name))


def stems_of(file_name: str) -> list[str]:
    """Ids that the image with this file name may have, with its folders first: `path_id` of each end of the path."""
    path = Path(file_name.replace("\\", "/"))
    return [path_id(path, folder) for folder in reversed(path.parents)]


def stem_of(file_name: str) -> str:
    """Id of the image with this file name, whose folders may be separated as in Windows."""
    return image_id(Path(file_name.replace("\\", "/")))


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file, or of a folder of them.

    names:   names of the labels, each once
    images:  in the order of the file
    remarks: what was left out or decided, for the user to check
    num_lost: number of pixels that had no label when this file was exported, and that are now like background
    """

    names: Sequence[str]
    images: Sequence[AnnotatedImage]
    remarks: Sequence[str] = ()
    num_lost: int = 0


def refuse_lost(annotations: Annotations, source: Path, way_out: str = "") -> None:
    """DatasetError if pixels without a label would be read as background.

    way_out: another way to read the file, for the message
    """
    if annotations.num_lost:
        raise DatasetError(
            f"{source} is an export of pseudo-labels, in which {annotations.num_lost:,} pixels without a label are "
            "outside all outlines, and would be read as background; use an export that keeps them apart: conformalsam "
            f"export RUN --to png (or cvat, labelme, label-studio){way_out}"
        )


def refuse_size(where: str, found: Size, expected: Size) -> None:
    """DatasetError if a mask has another size than its image. It is called before the mask is decoded."""
    if found == expected:
        return
    is_turned = found == expected[::-1]
    fix = "draw it on the upright image, as viewers show it" if is_turned else "resize the mask"
    raise DatasetError(f"{where} is {found[1]} x {found[0]}, but its image is {expected[1]} x {expected[0]}; {fix}")


def drawn(outlines: Sequence[Outline], size: Size, where: str) -> Drawn:
    """The mask of the outlines of an image. Outlines that cover no pixel are logged.

    raises: DatasetError if an outline cannot be drawn, or if no outline covers a pixel
    """
    drawing = draw(outlines, *size)
    refuse_drawing(drawing, outlines, where)
    return Drawn(drawing.mask, drawing.num_covered)


def refuse_drawing(drawing: Drawing, outlines: Sequence[Outline], where: str) -> None:
    """Raise and log as `drawn`."""
    problems = list(drawing.problems)
    if drawing.empty and len(drawing.empty) == sum(not outline.is_coarse for outline in outlines):
        problems.append("no outline covers a pixel: they are flat, tiny or outside the image")
    if problems:
        more = f" (and {len(problems) - MAX_SHOWN} more problems)" if len(problems) > MAX_SHOWN else ""
        raise DatasetError(f"{where}: {'; '.join(problems[:MAX_SHOWN])}{more}; correct or remove these outlines")
    if drawing.empty:
        log.warning(
            "%s: %d outlines cover no pixel, because they are flat, tiny or outside their image: %s",
            *(where, len(drawing.empty), ", ".join(drawing.empty[:MAX_SHOWN])),
        )

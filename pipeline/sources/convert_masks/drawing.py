"""Draws the objects of an image into an index mask, and counts what a mask cannot show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.sources.convert_masks.shapes import Bools

NO_OBJECT = np.iinfo(np.int64).max

Shape = Callable[[int, int], Bools]
"""Decodes an object: height and width -> bool [H, W]. Raises ValueError if it is malformed or has another size."""


class Outline(NamedTuple):
    """One object of an image.

    name:      for messages, e.g. "annotation 7"
    code:      its value in the mask, 1 to 254
    shape:     its pixels
    is_coarse: a crowd, or a box without an outline: void, and behind every other object
    layer:     an object of a higher layer is in front, whatever its size
    """

    name: str
    code: int
    shape: Shape
    is_coarse: bool = False
    layer: int = 0


class Drawing(NamedTuple):
    """A mask, and what became of the outlines.

    mask:        uint8 [H, W], code of the object in front, 0 = no object, 255 = void
    num_covered: number of pixels that also belong to an object of another code behind the one in front
    empty:       names of the outlines that cover no pixel (enclose no centre of one)
    problems:    a message for each outline that cannot be drawn
    """

    mask: npt.NDArray[np.uint8]
    num_covered: int
    empty: list[str]
    problems: list[str]


def draw(outlines: Sequence[Outline], height: int, width: int) -> Drawing:
    """Draw the outlines of an image.

    Where objects overlap, the smaller one is in front (a tie lies on a table); of two with equal size, the later one.
    """
    size = height, width
    mask, area_in_front, layer_in_front = np.zeros(size, np.uint8), np.full(size, NO_OBJECT), np.zeros(size, np.int64)
    coarse, is_covered = np.zeros(size, bool), np.zeros(size, bool)
    empty: list[str] = []
    problems: list[str] = []
    for outline in outlines:
        try:
            shape = outline.shape(height, width)
        except ValueError as error:
            problems.append(f"{outline.name} cannot be drawn: {error}")
            continue
        if outline.is_coarse:
            coarse |= shape
            continue
        area = int(shape.sum())
        if not area:
            empty.append(outline.name)
            continue
        is_object = area_in_front < NO_OBJECT
        is_covered |= shape & is_object & (mask != outline.code)
        is_front = (outline.layer > layer_in_front) | (outline.layer == layer_in_front) & (area <= area_in_front)
        shape = shape & (is_front | ~is_object)
        mask[shape] = outline.code
        area_in_front[shape] = area
        layer_in_front[shape] = outline.layer
    mask[coarse & (area_in_front == NO_OBJECT)] = IGNORE_INDEX
    return Drawing(mask, int(is_covered.sum()), empty, problems)

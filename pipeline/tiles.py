"""Tiles of a large image: overlapping windows of one size, and their cores, which partition the image.

A tile answers for its core; the rest of its window is context. So every pixel of the image is counted once, and has the
labels of one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: Any) -> Any:
        """The values of an array or a tensor [..., H, W] inside the window, not copied: [..., height, width]."""
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def contains(self, row: int, column: int) -> bool:
        return 0 <= row - self.top < self.height and 0 <= column - self.left < self.width

    def seen_from(self, other: Window) -> Window:
        """The same window, with positions relative to another one."""
        return self._replace(top=self.top - other.top, left=self.left - other.left)


@dataclass(frozen=True)
class Tile:
    """A tile of an image.

    image:  id of the image
    window: its pixels in the image
    core:   part of the window that the tile answers for, in the image
    """

    image: str
    window: Window
    core: Window

    @property
    def id(self) -> str:
        """Id of the tile as a sample: `IMAGE@Y,X`, with the position of its first pixel in the image."""
        return f"{self.image}@{self.window.top},{self.window.left}"

    def core_of(self, array: Any) -> Any:
        """The core of an array or a tensor [..., H, W] of the window, not copied."""
        return self.core.seen_from(self.window).of(array)


def tiles_of(image: str, size: Sequence[int], side: int, overlap: int) -> list[Tile]:
    """Tiles of an image, row by row.

    size:    H, W of the image
    side:    height and width of a tile; an image that is smaller in one direction has one tile in it, of its own length
    overlap: smallest number of pixels that neighbours have in common, below `side`
    """
    rows, columns = (_spans(length, side, overlap) for length in size)
    return [
        Tile(image, Window(row.start, column.start, row.length, column.length), _core(row, column))
        for row in rows
        for column in columns
    ]


class _Span(NamedTuple):
    """A tile along one axis: its first pixel and length, and the part that it answers for."""

    start: int
    length: int
    core_start: int
    core_stop: int


def _core(row: _Span, column: _Span) -> Window:
    height, width = row.core_stop - row.core_start, column.core_stop - column.core_start
    return Window(row.core_start, column.core_start, height, width)


def _spans(length: int, side: int, overlap: int) -> list[_Span]:
    """Tiles along an axis. The border of two cores is in the middle of what their windows have in common."""
    side = min(side, length)
    first = starts(length, side, side - overlap)
    borders = [0, *((before + side + after) // 2 for before, after in pairwise(first)), length]
    return [_Span(start, side, *core) for start, core in zip(first, pairwise(borders), strict=True)]


def starts(length: int, side: int, stride: int) -> list[int]:
    """First pixel of each window along an axis. The last window is moved inwards, to where the axis ends.

    side, stride: pixels, `side` at most `length`
    """
    last = length - side
    return [*range(0, last, stride), last] if last else [0]


def only_core(array: Array, tile: Tile | None, fill: float) -> Array:
    """An array [..., H, W] of a tile, with `fill` outside its core; the array itself if it is of no tile."""
    if tile is None:
        return array
    result = np.full_like(array, fill)
    tile.core_of(result)[...] = tile.core_of(array)
    return result


def stitch(target: Array, tile: Tile, part: Array) -> None:
    """Write the core of a tile into its image. target: [..., H, W] of the image; part: [..., h, w] of the window"""
    tile.core.of(target)[...] = tile.core_of(part)

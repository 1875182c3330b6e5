"""Outlines of labels as polygons, for formats that have no masks.

A polygon outlines one connected region of a class along the edges of its pixels, INSET inside them. Programs that draw
polygons differ in what they do with a border. The two common ways give back the same pixels at the image's own size:
all pixels whose centres are inside, and all pixels that the polygon and its border touch when coordinates are cut to
integers (Pillow, OpenCV). A polygon has no holes: a hole is joined to the outline by a vertical cut of no width.
The known libraries return holes as polygons of their own, or cut the corners of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import Label

INSET = 0.05  # pixels; larger than the rounding of coordinates in text
TOP, RIGHT, BOTTOM, LEFT = range(4)  # sides of a pixel, clockwise
ALONG = ((0, 1), (1, 0), (0, -1), (-1, 0))  # rows and columns from an edge of each side to the next, clockwise
OUTWARD = (ALONG[LEFT], ALONG[TOP], ALONG[RIGHT], ALONG[BOTTOM])

Integers = npt.NDArray[np.int64]


class Polygon(NamedTuple):
    """The outline of one region.

    class_index: label of its pixels
    points:      float64 [P, 2], x and y in pixels; (0, 0) is the upper left corner of the image, P is at least 4
    """

    class_index: int
    points: npt.NDArray[np.float64]


class _Edges(NamedTuple):
    """Edges between pixels of a region and others, each seen from the pixel inside. Outlines are clockwise, holes not.

    row, column, side: of the pixel and its side, int64 [E]; sorted by side, row and column
    next:              the edge that follows, int64 [E]
    """

    row: Integers
    column: Integers
    side: Integers
    next: Integers


class _Lines(NamedTuple):
    """Lines that form closed outlines.

    position: y of a horizontal line, x of a vertical one, float64 [L]
    next:     the line that follows, int64 [L]
    """

    is_horizontal: npt.NDArray[np.bool_]
    position: npt.NDArray[np.float64]
    next: Integers


def outlines(label: Label) -> list[Polygon]:
    """Polygons of all regions that have a label, from top to bottom. Pixels that touch at a corner are not connected.

    label: uint8 [H, W], class index, 255 = no label, which gets no polygon
    """
    edges = _trace(label)
    lines = _with_cuts(edges, _holes(edges))
    return [
        Polygon(int(label[edges.row[first], edges.column[first]]), points)
        for first, points in _closed(lines, len(edges.row))
    ]


def _trace(label: Label) -> _Edges:
    height, width = label.shape
    padded = np.full((height + 2, width + 2), -1, np.int16)
    padded[1:-1, 1:-1] = label
    pixels = [
        np.flatnonzero((padded[1 + down :, 1 + right :][:height, :width] != label) & (label != IGNORE_INDEX))
        for down, right in OUTWARD
    ]
    side, pixel = np.repeat(np.arange(4), [len(found) for found in pixels]), np.concatenate(pixels)
    row, column = np.divmod(pixel, width)
    (down, right), (out_down, out_right) = np.array(ALONG)[side].T, np.array(OUTWARD)[side].T
    own = label[row, column]
    is_straight = padded[1 + row + down, 1 + column + right] == own
    is_inner = is_straight & (padded[1 + row + down + out_down, 1 + column + right + out_right] == own)  # turns outward
    next_side = np.where(is_inner, side - 1, np.where(is_straight, side, side + 1)) % 4
    next_row = row + is_straight * down + is_inner * out_down
    next_column = column + is_straight * right + is_inner * out_right
    following = np.searchsorted(side * label.size + pixel, next_side * label.size + next_row * width + next_column)
    return _Edges(row, column, side, following)


def _holes(edges: _Edges) -> Integers:
    """For each hole, the first of the edges that are its upper border: int64 [holes]."""
    num = len(edges.row)
    graph = coo_array((np.ones(num, bool), (np.arange(num), edges.next)), shape=(num, num))
    outline = connected_components(graph, directed=False)[1]
    widths = np.where(edges.side == RIGHT, edges.column + 1, np.where(edges.side == LEFT, -edges.column, 0))
    is_hole = np.bincount(outline, widths) < 0  # the sum is the enclosed area, with its sign
    upper = np.flatnonzero((edges.side == BOTTOM) & is_hole[outline])  # by row, because edges are numbered so
    return upper[np.unique(outline[upper], return_index=True)[1]]


def _with_cuts(edges: _Edges, holes: Integers) -> _Lines:
    """The edges as lines, and four more for each hole, which join it to the outline above it.

    The cut goes from the middle of the edge `hole` up to the middle of the next edge `above`. Each of both becomes two
    lines: the first keeps its number, the second is new, and so are the two sides of the cut.
    """
    row, column = edges.row[holes], edges.column[holes]
    tops = np.flatnonzero(edges.side == TOP)
    tops = tops[np.lexsort((edges.row[tops], edges.column[tops]))]
    height = edges.row.max(initial=0) + 1
    above = tops[np.searchsorted(edges.column[tops] * height + edges.row[tops], column * height + row, "right") - 1]
    down, rest_of_hole, up, rest_of_above = len(edges.row) + np.arange(4 * len(holes)).reshape(4, -1)
    following = np.concatenate([edges.next, rest_of_hole, edges.next[holes], rest_of_above, edges.next[above]])
    following[above], following[holes] = down, up
    inside = np.array([INSET, 1 - INSET, 1 - INSET, INSET])[edges.side]
    is_horizontal = (edges.side == TOP) | (edges.side == BOTTOM)
    position = np.where(is_horizontal, edges.row, edges.column) + inside
    middle = column + 0.5
    return _Lines(
        np.concatenate([is_horizontal, np.repeat([False, True, False, True], len(holes))]),
        np.concatenate([position, middle, position[holes], middle, position[above]]),
        following,
    )


def _closed(lines: _Lines, num_edges: int) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """For each closed outline, its first edge and its corners: float64 [P, 2], x and y."""
    following = lines.next.tolist()
    is_done = bytearray(len(following))
    for first in range(num_edges):
        if is_done[first]:
            continue
        path, line = [], first
        while not is_done[line]:
            is_done[line] = True
            path.append(line)
            line = following[line]
        here, after = np.array(path), np.array(path[1:] + path[:1])
        is_corner = lines.is_horizontal[here] != lines.is_horizontal[after]
        here, after = here[is_corner], after[is_corner]
        is_horizontal = lines.is_horizontal[here]
        x = np.where(is_horizontal, lines.position[after], lines.position[here])
        y = np.where(is_horizontal, lines.position[here], lines.position[after])
        yield first, np.stack([x, y], axis=1)

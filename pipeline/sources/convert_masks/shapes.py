"""Decodes COCO's shapes, polygons and run-length encodings, to boolean masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]

MAX_COORDINATE = 1e9  # pixels
MIN_CROSSINGS = 1_000_000  # of a polygon and the rows of pixels that any image may have
ASCII_OFFSET = 48  # of COCO's strings: each character has 5 bits of a number, and a bit that is set if more follow
PAYLOAD, MORE, SIGN = 0x1F, 0x20, 0x10
MAX_BITS = 40  # of a number in a string; the runs of an image have far fewer


def shape_mask(segmentation: Any, height: int, width: int) -> Bools:
    """Mask of an annotation, bool [H, W].

    segmentation: a list of polygons (the mask is their union), or a run-length encoding
    raises:       ValueError if it is neither, or does not fit the size of the image
    """
    if isinstance(segmentation, dict):
        return rle_mask(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("its segmentation is neither a list of polygons nor a run-length encoding")
    if not isinstance(segmentation[0], list):
        raise ValueError("its segmentation is one flat list, expected a list of polygons, [[x, y, x, y, ...]]")
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        add_polygon(mask, polygon)
    return mask


def box_mask(box: tuple[float, float, float, float], height: int, width: int) -> Bools:
    """Mask of the pixels that a box touches, bool [H, W]. box: left, top, width and height in pixels"""
    left, top = (max(math.floor(v), 0) for v in box[:2])
    right, bottom = (max(math.ceil(box[i] + box[i + 2]), 0) for i in range(2))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def add_polygon(mask: Bools, polygon: Sequence[float]) -> None:
    """Set the pixels whose centre is inside a polygon (even-odd rule).

    mask:    bool [H, W], changed in place; pixel (0, 0) spans 0 to 1 in both directions, so its centre is (0.5, 0.5)
    polygon: x1, y1, x2, y2, ... in pixels; fewer than three points enclose no pixel
    raises:  ValueError if it is not a list of x, y, x, y, ...
    """
    points = _numbers(polygon, "its polygon is not a list of x, y, x, y, ...").astype(np.float64)
    if len(points) % 2:
        raise ValueError("its polygon is not a list of x, y, x, y, ...")
    if not (np.abs(points) <= MAX_COORDINATE).all():
        raise ValueError("its polygon has a coordinate that is not finite or is far outside the image")
    height, width = mask.shape
    x0, y0 = points[0::2], points[1::2]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # rows whose centre an edge crosses: its upper end is included and its lower one is not, so no corner counts twice
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.intp)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.intp)
    if not len(points) or first.min() >= last.max():
        return
    num_rows = last - first
    if num_rows.sum() > max(height * width, MIN_CROSSINGS):
        raise ValueError("its polygon crosses more rows of pixels than the image has pixels")
    edge = np.repeat(np.arange(len(x0)), num_rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows) + first[edge]
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)
    # each crossing toggles inside and outside for all centres to its right
    top, bottom, left = int(first.min()), int(last.max()), int(column.min())
    turns = np.zeros((bottom - top, width + 1 - left), bool)
    np.logical_xor.at(turns, (row - top, column - left), True)
    mask[top:bottom, left:] |= np.logical_xor.accumulate(turns, axis=1)[:, :-1]


def rle_mask(segmentation: dict[str, Any], height: int, width: int) -> Bools:
    """Mask of a run-length encoding, bool [H, W].

    segmentation: `{"size": [H, W], "counts": ...}`, lengths of runs down the columns, the first one outside
    raises:       ValueError if it is malformed or has another size
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its run-length encoding is of size {size}, the image is {[height, width]} (height, width)")
    if not isinstance(counts, list | str):
        raise ValueError("its run-length encoding has no counts (a list of numbers, or a string)")
    if isinstance(counts, str):
        counts = string_counts(counts)
    runs = _numbers(counts, "the counts of its run-length encoding are not integers")
    if len(runs) and runs.dtype.kind == "f":
        raise ValueError("the counts of its run-length encoding are not integers")
    covered = sum(runs.tolist())  # integers of Python do not overflow
    if (runs < 0).any() or covered != height * width:
        raise ValueError(f"its run-length encoding covers {covered} pixels, the image has {height * width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _numbers(values: Any, problem: str) -> npt.NDArray[Any]:
    """A list of JSON numbers as an array [N] of integers or floats; ValueError(problem) for anything else."""
    try:
        numbers = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(problem) from None
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError(problem)
    return numbers


def string_counts(text: str) -> list[int]:
    """Run lengths of COCO's compressed string.

    Each character has 5 bits of a number, the lowest bits first. The highest bit of its last character is the sign.
    From the fourth number on, a number is stored as the difference from the one two before it.

    raises: ValueError if the string ends within a number, or has a number or a character that COCO does not use
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ASCII_OFFSET
        if not 0 <= bits <= PAYLOAD | MORE or shift >= MAX_BITS:
            raise ValueError("its run-length encoding has a character or a number that COCO does not use")
        value |= (bits & PAYLOAD) << shift
        shift += 5
        if bits & MORE:
            continue
        if bits & SIGN:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its run-length encoding ends within a number")
    return numbers

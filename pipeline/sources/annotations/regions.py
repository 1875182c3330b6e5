"""Regions as most annotation tools have them: polygons, ellipses, bitmaps and boxes, each with a label."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from pipeline.errors import DatasetError
from pipeline.files import normal
from pipeline.sources.annotations.annotated import AnnotatedImage, Drawn, Size, drawn, refuse_size
from pipeline.sources.convert_masks.drawing import Outline, Shape
from pipeline.sources.convert_masks.shapes import Bools, add_polygon, box_mask
from pipeline.text import is_one_line

Point = tuple[float, float]
"""x and y in pixels, from the corner of the image; the centre of its first pixel is (0.5, 0.5)."""
Model = TypeVar("Model", bound=BaseModel)


class Region(NamedTuple):
    """One region of an image.

    name:   for messages, e.g. "polygon 3"
    label:  as the annotator calls it
    shape:  its pixels
    is_box: a box, whose object is somewhere within it
    layer:  a region of a higher layer is in front
    """

    name: str
    label: str
    shape: Shape
    is_box: bool = False
    layer: int = 0


def annotated_image(
    file_name: str, where: str, regions: Sequence[Region], size: Size | None = None, other_names: Sequence[str] = ()
) -> AnnotatedImage:
    """An image with the regions in it.

    size:        height and width of the annotated image; None if the file has only fractions of them
    other_names: file names under which the image may also be found
    """
    names = list(dict.fromkeys(region.label for region in regions))
    draw = functools.partial(_drawn, regions, names, where, size)
    return AnnotatedImage(file_name, where, names, draw, any(not region.is_box for region in regions), other_names)


def _drawn(regions: Sequence[Region], names: Sequence[str], where: str, annotated: Size | None, size: Size) -> Drawn:
    if annotated is not None:
        refuse_size(where, annotated, size)
    code_of = {name: code for code, name in enumerate(names, start=1)}
    return drawn([Outline(r.name, code_of[r.label], r.shape, r.is_box, r.layer) for r in regions], size, where)


def checked_label(label: str, where: str) -> str:
    """A label in Unicode's normal form; DatasetError for one that is empty or has several lines."""
    if not label.strip() or not is_one_line(label):
        raise DatasetError(f"{where} has the label {label!r}, expected a name; correct it in the annotation tool")
    return normal(label)


# --- shapes ----------------------------------------------------------------------------------------------------------


def polygon(points: Sequence[Point]) -> Shape:
    """The pixels whose centre is inside a polygon."""

    def shape(height: int, width: int) -> Bools:
        mask = np.zeros((height, width), bool)
        add_polygon(mask, [coordinate for point in points for coordinate in point])
        return mask

    return shape


def box(left: float, top: float, width: float, height: float, degrees: float = 0, pivot: Point | None = None) -> Shape:
    """The pixels that a box touches. A box that is turned has those whose centre is inside.

    degrees: clockwise
    pivot:   the point around which it is turned; default: its centre
    """
    if not degrees:
        return _upright_box(left, top, width, height)
    x, y = pivot or (left + width / 2, top + height / 2)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(left + dx - x, top + dy - y) for dx, dy in ((0, 0), (width, 0), (width, height), (0, height))]
    return polygon([(x + dx * cosine - dy * sine, y + dx * sine + dy * cosine) for dx, dy in offsets])


def _upright_box(left: float, top: float, box_width: float, box_height: float) -> Shape:
    def shape(height: int, width: int) -> Bools:
        if not all(map(math.isfinite, (left, top, box_width, box_height))) or min(box_width, box_height) <= 0:
            raise ValueError("its box has no area")
        return box_mask((left, top, box_width, box_height), height, width)

    return shape


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> Shape:
    """The pixels whose centre is inside an ellipse around a point, turned clockwise by `degrees`."""

    def shape(height: int, width: int) -> Bools:
        if not all(map(math.isfinite, (x, y, radius_x, radius_y, degrees))) or min(radius_x, radius_y) <= 0:
            raise ValueError("its ellipse has no area")
        dx, dy = np.arange(width) + 0.5 - x, np.arange(height)[:, None] + 0.5 - y
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
        inside: Bools = (along / radius_x) ** 2 + (across / radius_y) ** 2 <= 1
        return inside

    return shape


def of_size(make: Callable[[int, int], Shape]) -> Shape:
    """A shape that is given in fractions of the image. make: its shape for a width and a height in pixels"""

    def shape(height: int, width: int) -> Bools:
        return make(width, height)(height, width)

    return shape


def bitmap(pixels: Bools, left: int, top: int) -> Shape:
    """A bitmap, bool [h, w], whose upper left pixel lies at row `top` and column `left` of the image."""

    def shape(height: int, width: int) -> Bools:
        bottom, right = top + pixels.shape[0], left + pixels.shape[1]
        if min(left, top) < 0 or bottom > height or right > width:
            raise ValueError(
                f"its bitmap covers columns {left} to {right} and rows {top} to {bottom}, but the image has {width} "
                f"columns and {height} rows"
            )
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = pixels
        return mask

    return shape


def runs(counts: npt.NDArray[np.integer[Any]], height: int, width: int) -> Bools:
    """Bitmap of lengths of runs along the rows, the first one outside: bool [height, width]; else ValueError."""
    covered = sum(counts.tolist())
    if (counts < 0).any() or covered != height * width:
        raise ValueError(f"its runs cover {covered} pixels, but its bitmap has {height} x {width}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)


# --- files -----------------------------------------------------------------------------------------------------------


def json_files(source: Path) -> list[Path]:
    """A JSON itself, or those below a folder; hidden files are no data."""
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" else []
    found = sorted(source.rglob("*.json"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(source).parts)]


def parsed(model: type[Model], content: Any, where: str) -> Model:
    """Content of a JSON, checked against the fields that are read; DatasetError for the first that does not fit."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        raise DatasetError(
            f"{where}: {entry} is {_shown(first['input'])}: {first['msg']}; correct it, or export the file again"
        ) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def box_remark(source: Path, regions: Iterable[Region]) -> list[str]:
    """What to say about boxes, if there are any."""
    number = sum(region.is_box for region in regions)
    if not number:
        return []
    return [
        f"{source}: {number} boxes are no outlines; the pixels in them get no label, except those of other objects; "
        "draw outlines, or remove the boxes"
    ]


def left_out_remark(source: Path, kinds: Counter[str]) -> list[str]:
    """What to say about regions without area, if there are any. kinds: number of regions by their kind"""
    if not kinds:
        return []
    listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    return [f"{source}: not drawn, because they have no area: {listed}"]

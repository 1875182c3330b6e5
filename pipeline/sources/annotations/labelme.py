"""LabelMe's JSON, one file beside each image: polygons, circles and bitmaps (`mask`), which its AI tools write."""

from __future__ import annotations

import base64
import binascii
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, Field

from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations
from pipeline.sources.annotations.regions import (
    Point,
    Region,
    annotated_image,
    bitmap,
    box,
    box_remark,
    checked_label,
    ellipse,
    json_files,
    left_out_remark,
    parsed,
    polygon,
)
from pipeline.sources.coco import load_json
from pipeline.sources.convert_masks.drawing import Shape
from pipeline.sources.convert_masks.shapes import Bools

WITHOUT_AREA = ("line", "linestrip", "point", "points")


class LabelMeShape(BaseModel):
    """One shape. mask: PNG of the pixels between the two points, both included, in base64"""

    label: str
    points: list[Point]
    shape_type: str | None = Field(None, pattern=r"^[\w -]*$")
    mask: str | None = None


class LabelMeFile(BaseModel):
    imagePath: str
    shapes: list[LabelMeShape]
    imageHeight: int | None = None
    imageWidth: int | None = None


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def is_here(source: Path) -> bool:
    """Whether a JSON, or one in a folder, is LabelMe's."""
    return any(is_labelme(load_json(path)) for path in json_files(source))


def read(source: Path) -> Annotations:
    """The regions of each file. A file belongs to the image that it names, or to the one with its own stem.

    raises: DatasetError for a file that does not fit the format
    """
    images: list[AnnotatedImage] = []
    regions: list[Region] = []
    without_area: Counter[str] = Counter()
    for path in json_files(source):
        content = load_json(path)
        if not is_labelme(content):
            continue
        content.pop("imageData", None)  # the image itself, in base64
        file = parsed(LabelMeFile, content, str(path))
        of_image = list(_regions(file, path, without_area))
        height, width = file.imageHeight, file.imageWidth
        size = (height, width) if height is not None and width is not None else None
        images.append(annotated_image(file.imagePath, str(path), of_image, size, (_name_in(source, path),)))
        regions += of_image
    names = list(dict.fromkeys(region.label for region in regions))
    return Annotations(names, images, [*box_remark(source, regions), *left_out_remark(source, without_area)])


def _name_in(source: Path, path: Path) -> str:
    """Name of a file with its folders below the source."""
    return str(path.relative_to(source)) if source.is_dir() else path.name


def _regions(file: LabelMeFile, path: Path, without_area: Counter[str]) -> Iterator[Region]:
    for number, shape in enumerate(file.shapes, start=1):
        kind = shape.shape_type or "polygon"
        name = f"shape {number} ({kind})"
        if kind in WITHOUT_AREA:
            without_area[kind] += 1
            continue
        is_box = kind in ("rectangle", "oriented_rectangle")
        yield Region(name, checked_label(shape.label, f"{path}: {name}"), _shape(kind, shape), is_box)


def _shape(kind: str, shape: LabelMeShape) -> Shape:
    """The pixels of a shape. What does not fit is refused when it is drawn."""
    points = shape.points
    if kind in ("polygon", "oriented_rectangle"):
        return polygon(points)

    def of_two_points(height: int, width: int) -> Bools:
        if len(points) != 2:
            raise ValueError(f"it has {len(points)} points, expected 2")
        (x0, y0), (x1, y1) = points
        if not np.isfinite(points).all():
            raise ValueError("it has a coordinate that is not finite")
        if kind == "circle":
            radius = float(np.hypot(x1 - x0, y1 - y0))
            return ellipse(x0, y0, radius, radius)(height, width)
        if kind == "rectangle":
            return box(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))(height, width)
        if kind == "mask":
            pixels = _pixels(shape.mask)
            if pixels.shape != (int(y1) - int(y0) + 1, int(x1) - int(x0) + 1):
                raise ValueError(f"its mask of {pixels.shape} pixels does not fill the rectangle of its points")
            return bitmap(pixels, int(x0), int(y0))(height, width)
        raise ValueError(f"its shape_type {kind!r} is unknown")

    return of_two_points


def _pixels(mask: str | None) -> Bools:
    try:
        with Image.open(io.BytesIO(base64.b64decode(mask or "", validate=True)), formats=["PNG"]) as picture:
            return np.array(picture).astype(bool)
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"its mask is no PNG in base64 ({error})") from None

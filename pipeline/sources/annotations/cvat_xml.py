"""CVAT's own XML, "CVAT for images 1.1": polygons, ellipses, run-length encoded masks and boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pipeline.errors import DatasetError
from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations
from pipeline.sources.annotations.regions import (
    Region,
    annotated_image,
    bitmap,
    box,
    box_remark,
    checked_label,
    ellipse,
    left_out_remark,
    polygon,
    runs,
)
from pipeline.sources.convert_masks.drawing import Shape
from pipeline.text import read_text

SUFFIX = ".xml"
ROOT = "annotations"
WITHOUT_AREA = ("polyline", "points", "skeleton", "cuboid")
AGAIN = "export the task again as CVAT for images 1.1"


def is_here(source: Path) -> bool:
    """Whether an XML, or one in a folder, is CVAT's."""
    return any(True for _ in _files(source))


def _files(source: Path) -> Iterator[tuple[Path, ElementTree.Element]]:
    if source.is_file():
        paths = [source] if source.suffix.lower() == SUFFIX else []
    else:
        paths = [path for path in sorted(source.rglob(f"*{SUFFIX}")) if not path.name.startswith(".")]
    for path in paths:
        root = _root(path)
        if root.tag == ROOT:
            yield path, root


def _root(path: Path) -> ElementTree.Element:
    text = read_text(path)
    if "<!DOCTYPE" in text:
        raise DatasetError(f"{path} declares a document type, which CVAT's files do not; {AGAIN}")
    try:
        return ElementTree.fromstring(text)  # nosec B314: without a document type there are no entities to expand
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{path} is not valid XML ({error}); {AGAIN}") from None


def read(source: Path) -> Annotations:
    """The regions of each image. A region of a higher z_order is in front.

    raises: DatasetError for a file that does not fit the format, and for the tracks of a video
    """
    images: list[AnnotatedImage] = []
    regions: list[Region] = []
    names: dict[str, None] = {}
    without_area: Counter[str] = Counter()
    for path, root in _files(source):
        if root.find("track") is not None:
            raise DatasetError(f"{path} has the tracks of a video; {AGAIN}")
        labels = (label for label in root.iter("label") if label.find("parent") is None)
        names |= {checked_label(label.findtext("name", ""), str(path)): None for label in labels}
        for image in root.iter("image"):
            file_name = image.get("name", "")
            where = f"{path}: {file_name}"
            of_image = list(_regions(image, where, without_area))
            size = _whole(image, "height", where), _whole(image, "width", where)
            images.append(annotated_image(file_name, where, of_image, size))
            regions += of_image
    names |= {region.label: None for region in regions}
    return Annotations(list(names), images, [*box_remark(source, regions), *left_out_remark(source, without_area)])


def _regions(image: ElementTree.Element, where: str, without_area: Counter[str]) -> Iterator[Region]:
    for number, element in enumerate(image, start=1):
        name = f"{element.tag} {number}"
        here = f"{where}: {name}"
        if element.tag in WITHOUT_AREA:
            without_area[element.tag] += 1
            continue
        shape = _shape(element, here)
        if shape is not None:
            label = checked_label(element.get("label", ""), here)
            layer = _whole(element, "z_order", here) if "z_order" in element.attrib else 0
            yield Region(name, label, shape, element.tag == "box", layer)


def _shape(element: ElementTree.Element, where: str) -> Shape | None:
    """The pixels of an element; None for those that are no regions, such as tags."""

    def number(name: str) -> float:
        return _number(element, name, where)

    rotation = number("rotation") if "rotation" in element.attrib else 0
    match element.tag:
        case "polygon":
            return polygon(_points(element, where))
        case "box":
            left, top = number("xtl"), number("ytl")
            return box(left, top, number("xbr") - left, number("ybr") - top, rotation)
        case "ellipse":
            return ellipse(number("cx"), number("cy"), number("rx"), number("ry"), rotation)
        case "mask":
            return _mask(element, where)
        case _:
            return None


def _mask(element: ElementTree.Element, where: str) -> Shape:
    """The pixels of run lengths along the rows of a rectangle, which starts outside."""
    height, width, top, left = (_whole(element, name, where) for name in ("height", "width", "top", "left"))
    try:
        counts = np.array([int(count) for count in element.get("rle", "").split(",")], np.int64)
        return bitmap(runs(counts, height, width), left, top)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{where} has an rle that cannot be read: {error}; {AGAIN}") from None


def _points(element: ElementTree.Element, where: str) -> list[tuple[float, float]]:
    text = element.get("points", "")
    try:
        pairs = [pair.split(",") for pair in text.split(";")]
        return [(float(x), float(y)) for x, y in pairs]
    except ValueError:
        raise DatasetError(f"{where} has the points {text[:40]!r}, expected x,y;x,y;...; {AGAIN}") from None


def _number(element: ElementTree.Element, name: str, where: str) -> float:
    text = element.get(name)
    try:
        return float(text if text is not None else "")
    except ValueError:
        raise DatasetError(f"{where} has {name} {text!r}, expected a number; {AGAIN}") from None


def _whole(element: ElementTree.Element, name: str, where: str) -> int:
    number = _number(element, name, where)
    if not number.is_integer() or abs(number) > np.iinfo(np.int32).max:
        raise DatasetError(f"{where} has {name} {element.get(name)!r}, expected a whole number; {AGAIN}")
    return int(number)

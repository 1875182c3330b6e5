"""Reads COCO's JSON. Everything that does not fit together is collected and refused in one error."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import DatasetError, first_line
from pipeline.files import image_id, normal
from pipeline.settings import MAX_PIXELS
from pipeline.text import is_one_line

KEYS = ("images", "annotations", "categories")
MAX_SHOWN = 5  # problems in one message
MAX_STEM = 200  # characters of a file name without its ending; file systems allow 255 bytes of a whole name
REMEDY = "correct or remove these entries, or export the file again"

Id = int | str
"""Id of an image, an annotation or a category. 7, 7.0 and "7" are one id, because tools write all three."""


class Image(NamedTuple):
    """One image. height, width: pixels"""

    id: Id
    name: str
    height: int
    width: int

    @property
    def stem(self) -> str:
        return _stem(self.name)


class Annotation(NamedTuple):
    """One object.

    segmentation: polygons or a run-length encoding, not checked yet; None if the object has only a box
    box:          left, top, width and height in pixels; None if it has a segmentation
    """

    id: Id
    category: Id
    segmentation: Any | None
    box: tuple[float, float, float, float] | None
    is_crowd: bool


@dataclass(frozen=True)
class CocoFile:
    """The content of a file, checked: every id is unique, and every id that is referred to exists.

    categories:  name by id
    groups:      names of the supercategories of other categories
    annotations: of each image that has any, by id of the image, in the order of the file
    """

    path: Path
    images: Sequence[Image]
    categories: Mapping[Id, str]
    groups: Collection[str]
    annotations: Mapping[Id, Sequence[Annotation]]

    def has_outlines(self, image: Image) -> bool:
        """Whether an object of the image has an outline. Without one, its background is not known either."""
        return any(annotation.segmentation is not None for annotation in self.annotations.get(image.id, ()))

    def boxes_only(self) -> list[Id]:
        """Ids of the annotations that have a box but no outline."""
        return [a.id for annotations in self.annotations.values() for a in annotations if a.segmentation is None]


def load_json(path: Path) -> Any:
    """Content of a JSON file; DatasetError if it cannot be read, is not JSON, or gives a name in an object twice."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_object)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not valid JSON ({first_line(error)}); export or unpack it again") from None
    except RecursionError:
        raise DatasetError(f"{path} is not COCO's JSON: it is nested too deeply; export or unpack it again") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {double!r} twice")
    return content


def read_coco(path: Path, max_pixels: int = MAX_PIXELS) -> CocoFile:
    """Read a file and check how its entries refer to each other. Shapes are checked when they are drawn.

    max_pixels: largest height times width of an image
    raises:     DatasetError with all problems
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path} contains {_shown(content)}, expected an object with {', '.join(KEYS)}; {REMEDY}")
    wrong = [key for key in KEYS if not isinstance(content.get(key), list)]
    if wrong:
        raise DatasetError(f"{path} has no list of {' and no list of '.join(wrong)}, expected COCO's JSON; {REMEDY}")
    problems: list[str] = []
    images = _unique("image", content["images"], problems)
    categories = _unique("category", content["categories"], problems)
    found = [image for key, entry in images.items() if (image := _image(key, entry, max_pixels, problems))]
    _double_names(found, problems)
    names = {key: _category_name(key, entry, problems) for key, entry in categories.items()}
    annotations: dict[Id, list[Annotation]] = defaultdict(list)
    for key, entry in _unique("annotation", content["annotations"], problems).items():
        image_id = _reference(key, entry, "image_id", images, problems)
        category_id = _reference(key, entry, "category_id", categories, problems)
        annotation = _annotation(key, entry, category_id, problems)
        if image_id is not None and annotation is not None:
            annotations[image_id].append(annotation)
    refuse(path, problems)
    return CocoFile(path, found, names, _groups(categories.values()), dict(annotations))


def refuse(path: Path, problems: Sequence[str]) -> None:
    """DatasetError of one line that names the first problems and the number of all, if there are any."""
    if problems:
        number = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DatasetError(f"{path} has {number}: {some(problems, '; ')}; {REMEDY}")


def some(items: Sequence[Any], separator: str = ", ") -> str:
    """The first items as text, and the number of the others."""
    more = [f"and {len(items) - MAX_SHOWN} more"] if len(items) > MAX_SHOWN else []
    return separator.join([*map(str, items[:MAX_SHOWN]), *more])


def read_id(value: Any) -> Id | None:
    """The id that a JSON value means: an integer for 7, 7.0 and "7", other text as it is; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        is_number = value.isascii() and value.isdigit() and (value == "0" or value[0] != "0") and len(value) < 20
        return int(value) if is_number else value
    return value if isinstance(value, int) else None


def id_order(key: Id) -> tuple[bool, int, str]:
    """Sorting key: numbers first, by value; then texts."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


def _unique(kind: str, entries: Sequence[Any], problems: list[str]) -> dict[Id, Mapping[str, Any]]:
    """Entries of a list by id."""
    found: dict[Id, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        key = read_id(entry.get("id")) if isinstance(entry, dict) else None
        if key is None:
            what = f"the id {_shown(entry.get('id'))}" if isinstance(entry, dict) and "id" in entry else "no id"
            problems.append(f"{kind} number {number} has {what}, expected a number or a text")
        elif key in found:
            problems.append(f"two entries of kind {kind} have the id {key!r}")
        else:
            found[key] = entry
    return found


def _image(key: Id, entry: Mapping[str, Any], max_pixels: int, problems: list[str]) -> Image | None:
    name = entry.get("file_name")
    if not isinstance(name, str) or not _is_file_name(name):
        problems.append(f"image {key!r} has the file_name {_shown(name)}, expected the name of an image file")
        return None
    height, width = _length(entry.get("height")), _length(entry.get("width"))
    if height is None or width is None:
        size = f"{_shown(entry.get('height'))} and {_shown(entry.get('width'))}"
        problems.append(f"image {name!r} has the height and width {size}, expected its size in pixels")
        return None
    if height * width > max_pixels:
        problems.append(f"image {name!r} has {width} x {height} pixels, expected at most {max_pixels}")
        return None
    return Image(key, name, height, width)


def _stem(name: str) -> str:
    """Id of the image with this file name, whose folders may be separated as in Windows."""
    return image_id(Path(name.replace("\\", "/")))


def _is_file_name(name: str) -> bool:
    stem = _stem(name)
    return is_one_line(name) and 0 < len(stem) <= MAX_STEM and not stem.startswith(".")


def _length(value: Any) -> int | None:
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def _double_names(images: Sequence[Image], problems: list[str]) -> None:
    first: dict[str, Id] = {}
    for image in images:
        if first.setdefault(image.name, image.id) != image.id:
            problems.append(f"the images {first[image.name]!r} and {image.id!r} have the same file_name {image.name!r}")


def _category_name(key: Id, entry: Mapping[str, Any], problems: list[str]) -> str:
    name = entry.get("name")
    if isinstance(name, str) and name.strip() and is_one_line(name):
        return normal(name)
    problems.append(f"category {key!r} has the name {_shown(name)}, expected a text")
    return ""


def _groups(categories: Iterable[Mapping[str, Any]]) -> set[str]:
    """The names that a category has as the supercategory of another."""
    pairs = ((entry.get("supercategory"), entry.get("name")) for entry in categories)
    return {normal(group) for group, name in pairs if isinstance(group, str) and group != name}


def _reference(key: Id, entry: Mapping[str, Any], field: str, known: Container[Id], problems: list[str]) -> Id | None:
    """The id in a field of an annotation, if an entry with this id exists."""
    target = read_id(entry.get(field))
    if target is None or target not in known:
        kind = {"image_id": "images", "category_id": "categories"}[field]
        problems.append(f"annotation {key!r} has {field} {_shown(entry.get(field))}, which is not in {kind}")
        return None
    return target


def _annotation(key: Id, entry: Mapping[str, Any], category: Id | None, problems: list[str]) -> Annotation | None:
    is_crowd = entry.get("iscrowd") or 0
    if is_crowd not in (0, 1):
        problems.append(f"annotation {key!r} has iscrowd {_shown(is_crowd)}, expected 0 or 1")
    segmentation, box = entry.get("segmentation"), None
    if segmentation in (None, [], {}, [[]]):
        segmentation, box = None, _box(entry.get("bbox"))
        if box is None:
            bbox = _shown(entry.get("bbox"))
            problems.append(f"annotation {key!r} has no segmentation and the bbox {bbox}, expected one of them")
            return None
    return None if category is None else Annotation(key, category, segmentation, box, bool(is_crowd))


def _box(value: Any) -> tuple[float, float, float, float] | None:
    """Left, top, width and height, if the value is a box that is not empty."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < MAX_PIXELS for v in value):
        return None
    left, top, width, height = map(float, value)
    return (left, top, width, height) if width > 0 and height > 0 else None


def _shown(value: Any) -> str:
    """A JSON value for a message, shortened."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "..."
    return text if len(text) <= 40 else f"{text[:37]}..."


def find_coco(folder: Path) -> Iterator[Path]:
    """A JSON file itself, or those below a folder that have at least two of COCO's lists; hidden files are no data."""
    if folder.is_file():
        yield folder
    for path in sorted(folder.rglob("*.json")):
        if any(name.startswith(".") for name in path.relative_to(folder).parts):
            continue
        content = load_json(path)
        if isinstance(content, dict) and sum(key in content for key in KEYS) >= 2:
            yield path

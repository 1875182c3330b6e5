"""YOLO's segmentation text: data.yaml with the names, and one file of polygons for each image in folders `labels`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from pipeline.errors import DatasetError, first_line
from pipeline.files import files_in, read_json
from pipeline.folder import PROVENANCE
from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations
from pipeline.sources.annotations.regions import (
    Region,
    annotated_image,
    box,
    box_remark,
    checked_label,
    of_size,
    polygon,
)
from pipeline.sources.convert_masks.drawing import Shape
from pipeline.text import read_lines, read_text

YAML_SUFFIXES = (".yaml", ".yml")
LABELS, IMAGES = "labels", "images"  # folders with the same sub-folders
NUM_BOX = 4  # numbers of a box: the centre, width and height; a polygon has at least 6
SLACK = 0.01  # by which tools let polygons reach outside the image


def is_here(source: Path) -> bool:
    """Whether the source is a data.yaml, or a folder with one and with folders of label files."""
    if source.is_file():
        return source.suffix.lower() in YAML_SUFFIXES and _names(source) is not None
    return _data_file(source) is not None and bool(_label_files(source))


def _data_file(folder: Path) -> Path | None:
    """The file that names the classes: in the folder or, for a folder `labels`, in one of the two above it."""
    above = folder.absolute().parents[:2] if folder.absolute().name == LABELS else ()
    paths = (path for place in (folder, *above) for path in files_in(place, YAML_SUFFIXES))
    return next((path for path in paths if _names(path) is not None), None)


def _names(path: Path) -> dict[int, str] | None:
    """Names of the classes by number; None if the file has no `names`."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DatasetError(f"{path} is not valid YAML ({first_line(error)}); export it again") from None
    listed = content.get("names") if isinstance(content, dict) else None
    if isinstance(listed, list):
        listed = dict(enumerate(listed))
    if not isinstance(listed, dict) or not all(isinstance(number, int) for number in listed):
        return None
    return {number: checked_label(str(name), f"{path}: names") for number, name in sorted(listed.items())}


def _label_files(folder: Path) -> list[Path]:
    """The files in the folders `labels`, at any depth."""
    found = files_in(folder, (".txt",), below=True)
    return [path for path in found if LABELS in (folder.absolute().name, *path.relative_to(folder).parts[:-1])]


def read(source: Path) -> Annotations:
    """The polygons of each label file, which belongs to the image of its stem.

    A file without a line has no object. That is taken as not annotated, because tools write such files for both.

    raises: DatasetError for a line that is no polygon or box of a class that has a name
    """
    folder = source if source.is_dir() else source.parent
    data = source if source.is_file() else _data_file(folder)
    if data is None:
        raise DatasetError(f"no data.yaml with `names` in {folder}; add it, with the names of the classes in order")
    names = _names(data) or {}
    images: list[AnnotatedImage] = []
    regions: list[Region] = []
    for path in _label_files(folder):
        of_image = list(_regions(path, names, data))
        parts = path.relative_to(folder).parts
        beside = "/".join(IMAGES if part == LABELS else part for part in parts)
        images.append(annotated_image(beside, str(path), of_image))
        regions += of_image
    return Annotations(list(dict.fromkeys(names.values())), images, box_remark(source, regions), _num_lost(data.parent))


def _num_lost(folder: Path) -> int:
    """Pixels without a label of an export of ours, which YOLO cannot express; 0 for other folders."""
    try:
        facts = read_json(folder / PROVENANCE)
        return int(facts["unlabeled_pixels"])
    except (OSError, ValueError, TypeError, LookupError):  # of another program
        return 0


def _regions(path: Path, names: Mapping[int, str], data: Path) -> Iterator[Region]:
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        name = f"line {number}"
        try:
            key, *numbers = map(float, words)
        except ValueError:
            raise DatasetError(f"{path} {name} is {line[:40]!r}, expected CLASS X Y X Y ...; export it again") from None
        if key not in names:
            raise DatasetError(f"{path} {name} has the class {key:g}, which {data} does not name; add it to its names")
        if not all(-SLACK <= value <= 1 + SLACK for value in numbers):
            raise DatasetError(
                f"{path} {name} has a coordinate outside 0 to 1, expected fractions of the width and the height; "
                "export it again, normalised"
            )
        is_box = len(numbers) == NUM_BOX
        if not is_box and (len(numbers) < NUM_BOX or len(numbers) % 2):
            raise DatasetError(
                f"{path} {name} has {len(numbers)} numbers after the class, expected an even number from 6 on; export "
                "it again as segmentation"
            )
        yield Region(name, names[int(key)], _box(numbers) if is_box else _polygon(numbers), is_box)


def _polygon(numbers: list[float]) -> Shape:
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return of_size(lambda width, height: polygon([(x * width, y * height) for x, y in pairs]))


def _box(numbers: list[float]) -> Shape:
    x, y, w, h = numbers
    return of_size(lambda width, height: box((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))

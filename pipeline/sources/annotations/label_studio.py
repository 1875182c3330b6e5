"""Label Studio's JSON, exported as JSON or JSON-MIN: polygons, ellipses, brush strokes and rectangles."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES
from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations, Size
from pipeline.sources.annotations.regions import (
    Region,
    annotated_image,
    box,
    box_remark,
    checked_label,
    ellipse,
    json_files,
    left_out_remark,
    of_size,
    parsed,
    polygon,
)
from pipeline.sources.coco import load_json
from pipeline.sources.convert_masks.drawing import Shape
from pipeline.sources.convert_masks.shapes import Bools
from pipeline.text import is_one_line

PERCENT = 100  # coordinates are percentages of the width and the height
UPLOADED = re.compile(r"[0-9a-f]{8}-(?P<name>.+)")  # Label Studio puts eight digits before the name of an uploaded file
LABELS = "labels"
WITHOUT_AREA = ("keypointlabels", "vectorlabels")
OPAQUE = 128  # of 255: from there on, a pixel belongs to a brush stroke
CHANNELS = 4  # red, green, blue and opacity
MAX_WORD = 8


class Value(BaseModel):
    """Where a region is, by its kind; its labels are in a field called like its kind, or `labels`."""

    points: list[tuple[float, float]] | None = None
    rle: list[int] | None = None
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    radiusX: float = 0
    radiusY: float = 0
    rotation: float = 0


class Task(NamedTuple):
    """A task, of either export. results: kind, value and facts of each region"""

    where: str
    image: str
    uploaded_as: str | None
    results: Sequence[Mapping[str, Any]]


def is_label_studio(content: Any) -> bool:
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) for task in content)
        and (any("annotations" in task or "completions" in task for task in content) or any(map(_kinds, content)))
    )


def _kinds(task: Mapping[str, Any]) -> list[str]:
    """Fields of a task of JSON-MIN that contain regions."""
    return [key for key, value in task.items() if isinstance(value, list) and value and all(map(_is_region, value))]


def _is_region(value: Any) -> bool:
    return isinstance(value, dict) and "original_width" in value


def is_here(source: Path) -> bool:
    """Whether a JSON, or one in a folder, is Label Studio's."""
    return any(is_label_studio(load_json(path)) for path in json_files(source))


def read(source: Path) -> Annotations:
    """The regions of each task. Of several annotations of an image, the ground truth counts, or the last one.

    raises: DatasetError for a file that does not fit the format
    """
    images: list[AnnotatedImage] = []
    regions: list[Region] = []
    without_area: Counter[str] = Counter()
    num_several = 0
    for path in json_files(source):
        content = load_json(path)
        if not is_label_studio(content):
            continue
        for number, entry in enumerate(content, start=1):
            where = f"{path}: task {_id_of(entry, number)}"
            chosen, others = _annotation(entry)
            num_several += others > 0
            task = Task(where, _image(entry, where), entry.get("file_upload"), chosen)
            of_image = list(_regions(task, without_area))
            images.append(annotated_image(task.image, where, of_image, _size(task), list(_other_names(task))))
            regions += of_image
    remarks = [*box_remark(source, regions), *left_out_remark(source, without_area)]
    if num_several:
        remarks.append(
            f"{source}: {num_several} images have several annotations; the ground truth is used, or else the last one"
        )
    return Annotations(list(dict.fromkeys(region.label for region in regions)), images, remarks)


def _id_of(entry: Mapping[str, Any], number: int) -> int | str:
    """The id of a task or a region for messages; its number in the list if it has none."""
    found = entry.get("id")
    return found if isinstance(found, int) or (isinstance(found, str) and is_one_line(found)) else number


def _annotation(entry: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """The results of the annotation that counts, and the number of others. Cancelled annotations do not count."""
    listed = entry.get("annotations", entry.get("completions"))
    if listed is None:  # JSON-MIN
        regions = [region for key in _kinds(entry) for region in entry[key]]
        return [{"type": _kind_of(region), "value": region, **region} for region in regions], 0
    if not isinstance(listed, list):
        return [], 0
    done = [a for a in listed if isinstance(a, dict) and not a.get("was_cancelled")]
    if not done:
        return [], 0
    chosen = next((a for a in done if a.get("ground_truth")), done[-1])
    results = chosen.get("result")
    return [r for r in results if isinstance(r, dict)] if isinstance(results, list) else [], len(done) - 1


def _kind_of(region: Mapping[str, Any]) -> str:
    return next((key for key in region if key.endswith(LABELS)), LABELS)


def _image(entry: Mapping[str, Any], where: str) -> str:
    """Name of the image file of a task: the first text among its data that ends like one."""
    data = entry["data"] if isinstance(entry.get("data"), dict) else entry
    texts = [text for text in data.values() if isinstance(text, str)]
    names = [name for text in texts if (name := file_name_of(text)).lower().endswith(IMAGE_SUFFIXES)]
    if not names:
        raise DatasetError(f"{where} names no image file ({', '.join(IMAGE_SUFFIXES)}); export a project of images")
    return names[0]


def file_name_of(address: str) -> str:
    """The path in an address such as /data/upload/1/0123abcd-cat.jpg, s3://... or /data/local-files/?d=cats/cat.jpg."""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d")
    except ValueError:
        return address
    return local[0] if local else unquote(parts.path) or address


def _other_names(task: Task) -> Iterator[str]:
    for name in (task.image, task.uploaded_as):
        if isinstance(name, str):
            yield name
            yield from name_before_upload(name)


def name_before_upload(name: str) -> list[str]:
    """The name that a file had before it was uploaded, if it has been."""
    match = UPLOADED.fullmatch(name.rpartition("/")[2])
    return [match["name"]] if match else []


def _size(task: Task) -> Size | None:
    """Height and width of the image, which every region repeats."""
    for result in task.results:
        height, width = result.get("original_height"), result.get("original_width")
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    return None


def _regions(task: Task, without_area: Counter[str]) -> Iterator[Region]:
    for number, result in enumerate(task.results, start=1):
        kind, value = result.get("type"), result.get("value")
        labels = _labels(kind, value)
        if labels is None:
            continue
        name = f"region {_id_of(result, number)} ({kind})"
        here = f"{task.where}: {name}"
        if kind in WITHOUT_AREA:
            without_area[kind] += 1
            continue
        if result.get("image_rotation"):
            raise DatasetError(
                f"{here} was drawn on an image rotated by {result['image_rotation']} degrees; rotate the image file "
                "itself, and annotate it again"
            )
        if len(labels) != 1:
            raise DatasetError(f"{here} has the labels {labels}, expected one; remove the others")
        drawn = parsed(Value, value, here)
        shape = _shape(drawn)
        if shape is not None:
            is_box = drawn.points is None and drawn.rle is None and not drawn.radiusX
            yield Region(name, checked_label(str(labels[0]), here), shape, is_box)


def _labels(kind: Any, value: Any) -> list[Any] | None:
    """The labels of a region. None if the result is none, e.g. a choice, or a region that another result labels."""
    if not isinstance(value, dict) or not isinstance(kind, str) or not is_one_line(kind):
        return None
    found = value.get(kind, value.get(LABELS))
    return found if isinstance(found, list) and found else None


def _shape(value: Value) -> Shape | None:
    """The pixels of a region; None for a result without a place."""
    if value.points is not None:
        points = value.points
        return of_size(lambda width, height: polygon([(x * width / PERCENT, y * height / PERCENT) for x, y in points]))
    if value.rle is not None:
        return functools.partial(brush_stroke, value.rle)
    if value.radiusX:
        return of_size(functools.partial(_ellipse, value))
    return of_size(functools.partial(_box, value)) if value.width else None


def _ellipse(value: Value, width: int, height: int) -> Shape:
    x, radius_x = value.x * width / PERCENT, value.radiusX * width / PERCENT
    y, radius_y = value.y * height / PERCENT, value.radiusY * height / PERCENT
    return ellipse(x, y, radius_x, radius_y, value.rotation)


def _box(value: Value, width: int, height: int) -> Shape:
    """A rectangle, which is turned around its upper left corner."""
    left, box_width = value.x * width / PERCENT, value.width * width / PERCENT
    top, box_height = value.y * height / PERCENT, value.height * height / PERCENT
    return box(left, top, box_width, box_height, value.rotation, (left, top))


def brush_stroke(rle: Sequence[int], height: int, width: int) -> Bools:
    """The pixels of a brush stroke that are at least half opaque, bool [H, W]; raises as `decode_brush`.

    rle: bytes of an image with four channels: red, green, blue and opacity
    """
    values = decode_brush(rle, height * width * CHANNELS)
    opaque: Bools = values.reshape(height, width, CHANNELS)[:, :, -1] >= OPAQUE
    return opaque


def decode_brush(rle: Sequence[int], num_values: int) -> npt.NDArray[np.uint8]:
    """Values of Label Studio's run-length encoding (rle-pack), uint8 [N].

    A stream of bits, the highest of each byte first: 32 for the number of values, 5 for the bits of a value minus 1,
    and four times 4 for the bits of a length minus 1. Each run then has a bit that is set if its values are all equal,
    2 for which of the four lengths it has, its length minus 1, and one value or all of them.

    num_values: expected number of values
    raises:     ValueError if the stream is damaged, or has another number of values
    """
    if not all(0 <= byte <= 0xFF for byte in rle):
        raise ValueError("its brush stroke has values that are no bytes")
    bits = np.unpackbits(np.array(rle, np.uint8))
    stream = _Bits(bits)
    found, word, lengths = stream.read(32), stream.read(5) + 1, [stream.read(4) + 1 for _ in range(4)]
    if found != num_values or word > MAX_WORD:
        raise ValueError(
            f"its brush stroke has {found} values of {word} bits, but its image has {num_values} of {MAX_WORD}"
        )
    values = np.zeros(num_values, np.uint8)
    start = 0
    while start < num_values:
        is_run, which = stream.read(1), stream.read(2)
        stop = start + 1 + stream.read(lengths[which])
        if stop > num_values:
            raise ValueError("its brush stroke has more values than it announces")
        values[start:stop] = stream.read(word) if is_run else stream.read_words(stop - start, word)
        start = stop
    return values


class _Bits:
    """Reads numbers from bits, uint8 [N] of 0 and 1; ValueError at their end."""

    def __init__(self, bits: npt.NDArray[np.uint8]):
        self.bits = bits
        self.position = 0

    def _take(self, number: int) -> npt.NDArray[np.uint8]:
        taken = self.bits[self.position : self.position + number]
        if len(taken) < number:
            raise ValueError("its brush stroke ends too early")
        self.position += number
        return taken

    def read(self, number: int) -> int:
        value = 0
        for bit in self._take(number).tolist():
            value = value << 1 | bit
        return value

    def read_words(self, number: int, word: int) -> npt.NDArray[np.uint8]:
        """Numbers of `word` bits each, at most 8: uint8 [number]."""
        words = self._take(number * word).reshape(number, word)
        values: npt.NDArray[np.uint8] = np.packbits(words, axis=1)[:, 0] >> np.uint8(MAX_WORD - word)
        return values

"""Samples and the readers that everybody uses: images as RGB, masks by index (never through their colours).

What a stage reads is what `prepare` read: the bytes of a file are read once, compared with the digest in samples.json,
and decoded from memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import DatasetError, UnreadableSourceError, first_line
from pipeline.files import Stamp, content_digest, read_with_stamp
from pipeline.folder import stage_command
from pipeline.record import read_record_as, write_record
from pipeline.settings import DataSettings

T = TypeVar("T")
Decoded = TypeVar("Decoded")

IGNORE_INDEX = 255
Split = Literal["labeled", "unlabeled", "val"]
SPLITS: tuple[Split, ...] = ("labeled", "unlabeled", "val")
INDEX_MODES = ("P", "L", "1", "I", "I;16")
LOOKUP_SIZE = 1 << 16
PROVEN: dict[tuple[str, str], Stamp] = {}
"""Path and digest of files that this process has read -> their stamps. Training reads a file once in every epoch; its
content is hashed again only if its stamp has changed."""
UNDECODABLE = (OSError, SyntaxError, ValueError)  # what Pillow raises for unreadable and truncated files


@dataclass(frozen=True)
class Sample:
    """One image; `mask` is None for unlabeled ones, whether or not a file exists."""

    id: str
    image: str
    """Path relative to the data root."""
    mask: str | None
    split: Split
    height: int = 0
    width: int = 0
    image_digest: str = ""
    mask_digest: str = ""


@dataclass(frozen=True)
class SampleIndex:
    """What `prepare` found: every sample of every split, in a fixed order.

    again: command that takes changed files in: it runs `prepare` and what follows
    """

    root: Path
    samples: tuple[Sample, ...]
    again: str = field(default="", compare=False)

    def of(self, *splits: Split) -> list[Sample]:
        return [sample for sample in self.samples if sample.split in splits]

    def image(self, sample: Sample) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB at the image's own size; raises as `image_bytes`."""
        return self._decoded(sample.image, self.image_bytes(sample), decode_image)

    def image_bytes(self, sample: Sample) -> bytes:
        """The image file as `prepare` read it; DatasetError if it has changed, UnreadableSourceError if it is gone."""
        return self._proven_bytes(sample.image, sample.image_digest)

    def mask(self, sample: Sample, data: DataSettings) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] class index, 255 = ignore, at the image's own size; raises as `image_bytes`."""
        assert sample.mask is not None, f"{sample.id} is unlabeled"
        content = self._proven_bytes(sample.mask, sample.mask_digest)
        return mask_classes(self._decoded(sample.mask, content, decode_mask_values), data)

    def _proven_bytes(self, name: str, expected: str) -> bytes:
        path = self.root / name
        try:
            content, stamp = read_with_stamp(path)
        except OSError as error:
            raise UnreadableSourceError(self._unreadable(path, error)) from None
        if PROVEN.get((str(path), expected)) == stamp:
            return content
        found = content_digest(content)
        if found != expected:
            raise DatasetError(
                f"{path} is not the file that prepare read ({len(content)} bytes with digest {found}, expected digest "
                f"{expected}); put that back, or take this one in: run {self.again}"
            )
        PROVEN[str(path), expected] = stamp
        return content

    def _decoded(self, name: str, content: bytes, decode: Callable[[bytes], Decoded]) -> Decoded:
        try:
            return decode(content)
        except UNDECODABLE as error:  # prepare has decoded it: another version of Pillow, or too little memory
            raise UnreadableSourceError(self._unreadable(self.root / name, error)) from None

    def _unreadable(self, path: Path, error: Exception) -> str:
        why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        return (
            f"{path} cannot be read ({why}), but prepare read it; put it back, run this in the folder in which prepare "
            f"was run, or go on without it: run {self.again}"
        )

    def as_json(self) -> dict[str, Any]:
        return {"root": str(self.root), "samples": [asdict(sample) for sample in self.samples]}


def example_samples(index: SampleIndex, num: int) -> list[Sample]:
    """Samples whose predictions `evaluate` keeps and the report shows: `num` unlabeled ones, evenly spaced.

    Of a run without unlabeled images it shows val images.
    """
    pool = index.of("unlabeled") or index.of("val")
    num = min(num, len(pool))
    return [pool[i * len(pool) // num] for i in range(num)]


def require_unlabeled(index: SampleIndex, again: str) -> None:
    """DatasetError if there are no unlabeled images, as after a `prepare` for a recipe that needs none.

    again: command that runs `prepare` and what follows
    """
    if not index.of("unlabeled"):
        raise DatasetError(
            "samples.json names no unlabeled image, but this recipe learns from some; add images without masks, and "
            f"run {again}"
        )


def load_samples(path: Path, again: str | None = None) -> SampleIndex:
    """Read the samples.json that `prepare` wrote.

    again:  command that runs it; default: of the run whose folder the file lies in
    raises: DatasetError if it has not run; RecordError for a file that is damaged, or was edited by hand
    """
    again = again or stage_command(path, "prepare")
    if not path.is_file():
        raise DatasetError(f"no sample index {path}; run {again}")
    index = read_record_as(SampleIndex, path, again)
    return replace(index, again=stage_command(path, "pseudolabel", rerun="prepare"))


def save_samples(path: Path, index: SampleIndex) -> None:
    """Write samples.json, atomically."""
    write_record(path, index.as_json())


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB; raises OSError if the file is unreadable or truncated."""
    return decode_image(path.read_bytes())


def decode_image(content: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB; raises one of UNDECODABLE."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def read_mask_values(path: Path) -> npt.NDArray[np.int32]:
    """Raw values [H, W] of an index mask (palette, grey or integer); DatasetError for colours."""
    try:
        return decode_mask_values(path.read_bytes())
    except DatasetError as error:
        raise DatasetError(f"{path} {error}") from None


def decode_mask_values(content: bytes) -> npt.NDArray[np.int32]:
    """int32 [H, W], raw values of an index mask; raises one of UNDECODABLE, or DatasetError for colours."""
    with Image.open(io.BytesIO(content)) as mask:
        if mask.mode not in INDEX_MODES:
            raise DatasetError(
                f"has mode {mask.mode}, expected an index mask (palette P or grey L); "
                "convert its colours to class indices first"
            )
        return np.asarray(mask).astype(np.int32)


def read_mask(path: Path, data: DataSettings) -> npt.NDArray[np.uint8]:
    """uint8 [H, W] class index by `data.classes`, 255 = ignore."""
    return mask_classes(read_mask_values(path), data)


def mask_classes(values: npt.NDArray[np.integer], data: DataSettings) -> npt.NDArray[np.uint8]:
    """uint8, shape of values: class index of each mask value, 255 = ignore."""
    classes: npt.NDArray[np.uint8] = class_lookup(data)[np.clip(values, 0, LOOKUP_SIZE - 1)]
    return classes


def class_lookup(data: DataSettings) -> npt.NDArray[np.uint8]:
    """uint8 [65536]: mask value -> class index; 255 where no class names the value."""
    lookup = np.full(LOOKUP_SIZE, IGNORE_INDEX, np.uint8)
    for index, values in enumerate(data.mask_values):
        lookup[values] = index
    return lookup


def unknown_mask_values(values: npt.NDArray[np.integer], data: DataSettings) -> list[int]:
    """Values that neither a class nor `ignore_values` names; empty if `unknown_values: ignore`."""
    if data.unknown_values == "ignore":
        return []
    known = {value for values_of_class in data.mask_values for value in values_of_class} | set(data.ignore_values)
    return sorted(set(np.unique(values).tolist()) - known)


def image_to_grid(image: npt.NDArray[np.uint8], grid: Sequence[int]) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] stretched to the grid (bilinear with antialiasing)."""
    height, width = grid
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_nearest(array: npt.NDArray[Any], size: Sequence[int]) -> npt.NDArray[Any]:
    """[..., H, W] resampled to `size` (H, W) by nearest pixel centre; exact for indices and NaN."""
    rows = _nearest_index(array.shape[-2], size[0])
    columns = _nearest_index(array.shape[-1], size[1])
    return array[..., rows[:, None], columns]


def _nearest_index(source: int, target: int) -> npt.NDArray[np.intp]:
    # integer form of floor((i + 0.5) * source / target): no rounding error decides between two pixels
    return (2 * np.arange(target) + 1) * source // (2 * target)


def evenly_spaced(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, in their order, evenly spaced, the first among them."""
    num = min(len(items), most)
    return [items[i * len(items) // num] for i in range(num)]


def class_index(label: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """uint8 of the same shape: class index, IGNORE_INDEX = no class, from a label with NaN or 255 for "no class".

    NaN is replaced before the cast to integers, because what such a cast makes of NaN depends on the processor (0, that
    is a class, on many).
    """
    if np.issubdtype(label.dtype, np.floating):
        label = np.where(np.isnan(label), IGNORE_INDEX, label)
    return label.astype(np.uint8)

"""Samples, their images (RGB), and the reader of masks (values, never colours).

A stage reads the same files as `prepare` did: the bytes of a file are read once, compared with the digest in
samples.json, and decoded from memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

import calib
from pipeline.errors import DatasetError, ImageFileError, StoreError, UnreadableSourceError, first_line
from pipeline.files import Stamp, content_digest, digest_with_stamp, read_with_stamp
from pipeline.folder import stage_command
from pipeline.images import IndexMask, PixelLimit, decode_image, index_mask, load_mask, read_content
from pipeline.record import read_record_as, write_record
from pipeline.settings import MAX_MASK_VALUE, DataSettings
from pipeline.tiles import Tile, only_core

T = TypeVar("T")

IGNORE_INDEX = 255
Split = Literal["labeled", "unlabeled", "val"]
SPLITS: tuple[Split, ...] = ("labeled", "unlabeled", "val")
OUTSIDE = MAX_MASK_VALUE + 1  # index of the classes of values outside 0..65535
RESTORE = "restore it, start this command in the folder in which prepare was run"
CHECKED: dict[tuple[str, str], Stamp] = {}
"""Path and digest of each file that this process has checked -> its stamp. Training reads a file in every epoch; its
content is hashed again only if its stamp has changed."""


@dataclass(frozen=True)
class Sample:
    """One image, or a tile of one; `mask` is None for an unlabeled image, even if a mask exists.

    image, mask:   paths relative to the data root; of a tile, files that prepare wrote
    height, width: pixels of the upright image; 0 until prepare has read it
    digests:       16 hex digits of the file's content, "" until prepare has read it or without a file
    group:         of images that are not independent (`data.groups`), "" for an image on its own; of a tile, without
                   `data.groups`, the id of its image
    tile:          None for a whole image
    """

    id: str
    image: str
    mask: str | None
    split: Split
    height: int = 0
    width: int = 0
    image_digest: str = ""
    mask_digest: str = ""
    group: str = ""
    tile: Tile | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return self.height, self.width


@dataclass(frozen=True)
class SampleIndex:
    """All samples of all splits that `prepare` listed, in a fixed order.

    root:  data root
    again: command that accepts changed files, for messages: it runs `prepare` and the stages after it
    cut:   images in place of which `samples` has their tiles
    """

    root: Path
    samples: tuple[Sample, ...]
    again: str = field(default="", compare=False)
    cut: tuple[Sample, ...] = ()

    @property
    def whole(self) -> SampleIndex:
        """The images as they are in the data set: an image that was cut takes the place of its tiles."""
        cut = {sample.id: sample for sample in self.cut}
        images = {one.id: one for one in (cut[s.tile.image] if s.tile else s for s in self.samples)}
        return replace(self, samples=tuple(images.values()), cut=())

    def of(self, *splits: Split) -> list[Sample]:
        return [sample for sample in self.samples if sample.split in splits]

    @property
    def reader(self) -> SampleIndex:
        """An index without samples, which reads those that it is given: what a job on another machine needs of it."""
        return replace(self, samples=())

    def image(self, sample: Sample) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB at the image's own size; raises as `image_bytes`."""
        content, path = self.image_bytes(sample), self.root / sample.image
        try:
            return decode_image(content, path, _limit(sample))
        except ImageFileError as error:
            raise self._undecodable(error) from None

    def image_bytes(self, sample: Sample) -> bytes:
        """Content of the image file; DatasetError if it has changed since prepare, UnreadableSourceError if missing."""
        return self._checked_bytes(sample.image, sample.image_digest)

    def mask(self, sample: Sample, data: DataSettings) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] class index, IGNORE_INDEX = void, at the image's own size; raises as `image_bytes`.

        A tile's mask is void outside its core, so that each pixel of an image counts once.
        """
        assert sample.mask is not None, f"{sample.id} is unlabeled"
        content, path = self._checked_bytes(sample.mask, sample.mask_digest), self.root / sample.mask
        try:
            classes = mask_classes(decode_index_mask(content, path, _limit(sample)).values, data)
            return only_core(classes, sample.tile, IGNORE_INDEX)
        except ImageFileError as error:
            raise self._undecodable(error) from None

    def image_file(self, sample: Sample) -> Path:
        """Path of the image file, whose content was compared without holding it in memory; raises as `image_bytes`."""
        path = self.root / sample.image
        digest, stamp = self._opened(path, digest_with_stamp)
        self._refuse_other(path, stamp, digest, sample.image_digest)
        return path

    def _checked_bytes(self, name: str, expected: str) -> bytes:
        path = self.root / name
        content, stamp = self._opened(path, read_with_stamp)
        if CHECKED.get((str(path), expected)) != stamp:
            self._refuse_other(path, stamp, content_digest(content), expected)
        return content

    def _opened(self, path: Path, read: Callable[[Path], T]) -> T:
        try:
            return read(path)
        except OSError as error:
            fix = "make it readable for you" if isinstance(error, PermissionError) else RESTORE
            raise self._unreadable(f"{path} cannot be read ({error.strerror or first_line(error)})", fix) from None

    def _refuse_other(self, path: Path, stamp: Stamp, digest: str, expected: str) -> None:
        if digest != expected:
            _, size, *_ = stamp
            raise DatasetError(
                f"{path} is not the file that prepare read ({size} bytes with digest {digest}, expected digest "
                f"{expected}); restore that file, or, to use the new one, run {self.again}"
            )
        CHECKED[str(path), expected] = stamp

    def _undecodable(self, error: ImageFileError) -> UnreadableSourceError:
        """prepare could decode the file: this is another version of Pillow, or there is not enough memory."""
        return self._unreadable(str(error).partition("; ")[0])

    def _unreadable(self, claim: str, fix: str = RESTORE) -> UnreadableSourceError:
        return UnreadableSourceError(
            f"{claim}, but prepare read it; {fix}, or, to continue without the file, run {self.again}"
        )

    def with_ids(self, ids: Iterable[str]) -> list[Sample]:
        """The samples with these ids, in their order."""
        by_id = {sample.id: sample for sample in self.samples}
        return [by_id[sample_id] for sample_id in ids]

    def as_json(self) -> dict[str, Any]:
        cut = {"cut": [_sample_facts(sample) for sample in self.cut]} if self.cut else {}
        return {"root": str(self.root), "samples": [_sample_facts(sample) for sample in self.samples], **cut}


def _sample_facts(sample: Sample) -> dict[str, Any]:
    absent = {name for name in ("group", "tile") if not getattr(sample, name)}
    return {name: value for name, value in asdict(sample).items() if name not in absent}


def units_of(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    """The unit of each sample, as `calib.units` numbers them: its group, or the image itself. int64 [n]"""
    return calib.number_units([(sample.group, "" if sample.group else sample.id) for sample in samples])


def num_groups(samples: Sequence[Sample]) -> int | None:
    """Number of groups of the samples; None without groups."""
    return calib.num_units(units_of(samples)) if any(sample.group for sample in samples) else None


def in_groups(num_images: int, num_groups: int | None, kind: str = "labeled") -> str:
    """`46 labeled images`, or `46 labeled images in 3 groups`."""
    images = f"{num_images} {kind} image{'' if num_images == 1 else 's'}"
    return images if num_groups is None else f"{images} in {num_groups} group{'' if num_groups == 1 else 's'}"


def _limit(sample: Sample) -> PixelLimit:
    """The size that prepare accepted."""
    return PixelLimit(math.prod(sample.size))


def example_samples(index: SampleIndex, num: int) -> list[Sample]:
    """Samples whose predictions `evaluate` stores and the report shows: at most `num`, evenly spaced.

    They are unlabeled images or, in a run without unlabeled images, val images.
    """
    pool = index.of("unlabeled") or index.of("val")
    num = min(num, len(pool))
    return [pool[i * len(pool) // num] for i in range(num)]


def require_unlabeled(index: SampleIndex, again: str) -> None:
    """DatasetError if there are no unlabeled images, as after a `prepare` for a recipe that needs none.

    again: command that runs `prepare` and the stages after it
    """
    if not index.of("unlabeled"):
        raise DatasetError(
            "samples.json lists no unlabeled image, but this recipe trains on unlabeled images; add some, then "
            f"run {again}"
        )


def load_samples(path: Path, again: str | None = None) -> SampleIndex:
    """Read the samples.json that `prepare` wrote.

    again:  command that runs `prepare`; default: of the run whose folder contains the file
    raises: DatasetError if it has not run; RecordError for a file that is damaged, or was edited by hand; StoreError
            for an id that is no file name
    """
    again = again or stage_command(path, "prepare")
    if not path.is_file():
        raise DatasetError(f"no sample index {path}; run {again}")
    index = read_record_as(SampleIndex, path, again)
    refuse_unsafe_ids(path, (sample.id for sample in (*index.samples, *index.cut)))
    return replace(index, again=stage_command(path, "pseudolabel", rerun="prepare"))


def refuse_unsafe_ids(path: Path, ids: Iterable[str]) -> None:
    """StoreError if an id cannot be a file name, so that no file is written outside its folder. path: of the ids"""
    unsafe = next((i for i in ids if i in ("", ".", "..") or "/" in i or "\0" in i), None)
    if unsafe is not None:
        raise StoreError(
            f"{path} has the image id {unsafe!r}, which is no file name; rename that image, and run prepare"
        )


def save_samples(path: Path, index: SampleIndex) -> None:
    """Write samples.json, atomically."""
    write_record(path, index.as_json())


def read_index_mask(path: Path, limit: PixelLimit) -> IndexMask:
    """Values and palette of a mask; raises as `decode_index_mask`."""
    return decode_index_mask(read_content(path), path, limit)


def decode_index_mask(content: bytes, path: Path, limit: PixelLimit) -> IndexMask:
    """Values and palette of the content of a mask's file.

    path:   for messages
    raises: ImageFileError for a file that cannot be read as a mask; DatasetError for colours
    """
    return index_mask(load_mask(content, path, limit), path)


def read_mask(path: Path, data: DataSettings) -> npt.NDArray[np.uint8]:
    """uint8 [H, W] class index by `data.classes`, IGNORE_INDEX = void; raises as `decode_index_mask`."""
    return mask_classes(read_index_mask(path, PixelLimit(data.max_pixels)).values, data)


def mask_classes(values: npt.NDArray[np.integer], data: DataSettings) -> npt.NDArray[np.uint8]:
    """Class index of each mask value: uint8, shape of values, IGNORE_INDEX = void. Negative values are void."""
    classes: npt.NDArray[np.uint8] = class_lookup(data)[np.clip(np.asarray(values, np.int32), -1, OUTSIDE)]
    return classes


def class_lookup(data: DataSettings) -> npt.NDArray[np.uint8]:
    """uint8 [65537]: mask value -> class index, IGNORE_INDEX for a value of no class, and at OUTSIDE."""
    lookup = np.full(OUTSIDE + 1, IGNORE_INDEX, np.uint8)
    for index, values in enumerate(data.mask_values):
        lookup[values] = index
    return lookup


def unknown_mask_values(values: npt.NDArray[np.integer], data: DataSettings) -> list[int]:
    """Sorted values that neither a class nor `data.ignore_values` lists; [] if `data.unknown_values: ignore`.

    Negative values are always void, so they are not unknown.
    """
    if data.unknown_values == "ignore":
        return []
    known = {value for values_of_class in data.mask_values for value in values_of_class} | set(data.ignore_values)
    return sorted(value for value in set(np.unique(values).tolist()) - known if value >= 0)


def image_to_grid(image: npt.NDArray[np.uint8], grid: Sequence[int]) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] resized to the grid (H, W), bilinear with antialiasing. image: uint8 [h, w, 3] RGB"""
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
    # integer form of floor((i + 0.5) * source / target), which has no rounding errors
    return (2 * np.arange(target) + 1) * source // (2 * target)


def evenly_spaced(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, in their order, starting with the first."""
    num = min(len(items), most)
    return [items[i * len(items) // num] for i in range(num)]


def class_index(label: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """uint8 of the same shape: class index, IGNORE_INDEX = no class, from a label with NaN or 255 for "no class".

    NaN is replaced before the cast to integers, because the result of casting NaN depends on the processor (on many it
    is 0, which is a class).
    """
    if np.issubdtype(label.dtype, np.floating):
        label = np.where(np.isnan(label), IGNORE_INDEX, label)
    return label.astype(np.uint8)

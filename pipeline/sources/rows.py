"""The pixels of an image or a mask by rows: a file is decoded at once or, as a TIFF above the limit, band by band."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.datasets import decode_index_mask
from pipeline.files import Stamp, content_digest, digest_with_stamp, read_with_stamp, stamp_of
from pipeline.images import (
    MASK,
    PHOTOGRAPH,
    Header,
    IndexMask,
    Kind,
    PixelLimit,
    band_of,
    decode_image,
    has_bands,
    header_of,
    read_header,
    unreadable,
)
from pipeline.settings import DataSettings, TileSettings
from pipeline.tiles import Window

P = TypeVar("P", npt.NDArray[np.uint8], IndexMask)


class Form(NamedTuple, Generic[P]):
    """What a file is decoded to, and the part of that in some rows and columns."""

    kind: Kind
    decode: Callable[[bytes, Path, PixelLimit], P]
    part: Callable[[P, slice, slice], P]


PHOTOGRAPHS: Form[npt.NDArray[np.uint8]] = Form(PHOTOGRAPH, decode_image, lambda pixels, *where: pixels[where])
MASKS: Form[IndexMask] = Form(MASK, decode_index_mask, lambda mask, *where: mask._replace(values=mask.values[where]))
EVERYWHERE = slice(None)


@dataclass(frozen=True)
class Rows(Generic[P]):
    """A file whose rows can be read.

    digest:  of its content
    read:    some rows, from the first to the one before the last number; raises as the decoder
    at_once: number of rows that a pass over all of them reads at a time
    """

    form: Form[P]
    header: Header
    digest: str
    stamp: Stamp
    read: Callable[[int, int], P]
    at_once: int

    def window(self, window: Window) -> P:
        """A part of the file; raises as `read`."""
        rows = self.read(window.top, window.top + window.height)
        return self.form.part(rows, EVERYWHERE, slice(window.left, window.left + window.width))

    def bands(self) -> Iterator[P]:
        """All rows, some at a time."""
        height = self.header.size[0]
        return (self.read(start, min(height, start + self.at_once)) for start in range(0, height, self.at_once))


class MaskValues(NamedTuple):
    """What a mask contains.

    pixels:  value -> number of pixels
    colours: value -> colour 0xRRGGBB, {} without a palette
    highest: largest value that a pixel of the file can have
    """

    pixels: dict[int, int]
    colours: dict[int, int]
    highest: int


def mask_values(mask: Rows[IndexMask]) -> MaskValues:
    """The values of a mask; raises as the decoder."""
    pixels: Counter[int] = Counter()
    colours: dict[int, int] = {}
    highest = 0
    for band in mask.bands():
        values, numbers = np.unique(band.values, return_counts=True)
        pixels.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        colours |= band.colours()
        highest = max(highest, band.highest)
    return MaskValues(dict(pixels), colours, highest)


def open_rows(path: Path, form: Form[P], data: DataSettings) -> Rows[P]:
    """Open an image or a mask; its pixels are decoded when rows are read. Raises ImageFileError."""
    return _open(path, form, data.max_pixels, data.tile)


def open_mask_again(path: Path, data: DataSettings) -> Rows[IndexMask]:
    """The same for a mask of which several tiles are read in turn: one that has not changed since stays decoded."""
    try:
        stamp = stamp_of(path.stat())
    except OSError as error:
        raise unreadable(path, error) from None
    return _last_mask(path, tuple(stamp), data.max_pixels, data.tile)


@lru_cache(maxsize=1)
def _last_mask(path: Path, stamp: tuple[int, ...], max_pixels: int, tile: TileSettings | None) -> Rows[IndexMask]:
    return _open(path, MASKS, max_pixels, tile)


def _open(path: Path, form: Form[P], max_pixels: int, tile: TileSettings | None) -> Rows[P]:
    fix = "set data.max_pixels: {}" + ("" if tile is None else "; a TIFF of tiles or strips is read in bands")
    limit = PixelLimit(max_pixels, fix)
    try:
        if tile is not None and _is_read_in_bands(read_header(path, form.kind), limit):
            return _in_bands(path, form, limit, tile.size)
        content, stamp = read_with_stamp(path)
    except OSError as error:
        raise unreadable(path, error) from None
    header = header_of(content, path, form.kind)

    @lru_cache
    def whole() -> P:
        return form.decode(content, path, limit)

    def read(start: int, stop: int) -> P:
        return form.part(whole(), slice(start, stop), EVERYWHERE)

    return Rows(form, header, content_digest(content), stamp, read, header.size[0])


def _is_read_in_bands(header: Header, limit: PixelLimit) -> bool:
    return math.prod(header.size) > limit.pixels and has_bands(header)


def _in_bands(path: Path, form: Form[P], limit: PixelLimit, at_once: int) -> Rows[P]:
    """A large TIFF. The last rows that were read are kept, because the tiles of a row need the same."""

    @lru_cache(maxsize=1)
    def read(start: int, stop: int) -> P:
        band = band_of(path, form.kind, start, stop)
        rows = slice(start - band.first, stop - band.first)
        return form.part(form.decode(band.content, path, limit), rows, EVERYWHERE)

    return Rows(form, read_header(path, form.kind), *digest_with_stamp(path), read, at_once)

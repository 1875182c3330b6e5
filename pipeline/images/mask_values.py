"""The values of an index mask, as they are stored: never colours, never scaled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import DatasetError, ImageFileError
from pipeline.images.decode import MaskFile
from pipeline.images.header import DEEP_GREY

HIGHEST = {"1": 1, "L": 255, "P": 255, "I": 2**31 - 1} | dict.fromkeys(DEEP_GREY, 65535)
"""Pillow's modes of one integer per pixel -> the largest value of a pixel."""
SCALED = re.compile(r"L;([24])R?")  # Pillow scales grey of 2 and 4 bits to 0..255; R: the bits in reversed order
INVERTED = re.compile(r"[1L];\d?I.*")  # and inverts a TIFF in which 0 is white
LOSSY = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
SAMPLE_FORMAT, SIGNED = 339, 2  # TIFF tag, and its value for signed integers
MAX_COUNTED = 65535
EXPECTED = "expected an index mask (palette P or grey L)"
CAUSES: Mapping[str, tuple[str, str]] = {
    "F": ("has floating-point values", "save it with integers, e.g. as PNG with 8 bits"),
    "LA": ("has an alpha channel", "save it without transparency"),
    "La": ("has an alpha channel", "save it without transparency"),
    "PA": ("has an alpha channel", "save it without transparency"),
}
"""Mode of a file that is no index mask -> why, and the fix; other modes are colours."""


class IndexMask(NamedTuple):
    """A mask whose values have no meaning yet."""

    values: npt.NDArray[np.int32]
    """int32 [H, W], as stored; signed formats may have negative values."""
    highest: int
    """Largest value that a pixel of the file can have."""
    palette: npt.NDArray[np.uint8] | None
    """uint8 [256, 3] RGB, colour of each value; None without a palette."""

    def present(self) -> list[int]:
        """The values that occur, in order. Counting is a tenth of the work of sorting."""
        if self.values.min() < 0 or self.values.max() > MAX_COUNTED:
            return np.unique(self.values).tolist()  # type: ignore[no-any-return]
        return np.flatnonzero(np.bincount(self.values.ravel())).tolist()

    def colours(self) -> dict[int, int]:
        """Colour as 0xRRGGBB of each value that occurs and has one."""
        if self.palette is None:
            return {}
        packed = packed_colours(self.palette)
        return {value: int(packed[value]) for value in self.present()}


def packed_colours(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """uint8 [..., 3] RGB -> int64 [...], the numbers 0xRRGGBB."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    packed: npt.NDArray[np.int64] = red << 16 | green << 8 | blue
    return packed


def pixel_colours(file: MaskFile, mask: IndexMask | None) -> npt.NDArray[np.int64] | None:
    """Colour of each pixel of a mask's file as the number 0xRRGGBB, int64 [H, W]; None if it has values only.

    mask: its values and palette; None if its pixels are no values
    """
    if mask is None:
        return packed_colours(np.asarray(file.picture.convert("RGB")))
    return None if mask.palette is None else packed_colours(mask.palette)[mask.values]


def is_index_mode(mode: str) -> bool:
    """Whether Pillow's mode has one integer per pixel."""
    return mode in HIGHEST


def index_mask(file: MaskFile, path: Path) -> IndexMask:
    """Values and palette of a mask's file.

    path:   for messages
    raises: ImageFileError for pixels that are no integers, or perhaps not those that were saved; DatasetError for
            colours
    """
    picture, mode, raw_mode = file.picture, file.header.mode, file.header.raw_mode
    compression = str(picture.info.get("compression", ""))
    if compression in LOSSY:
        raise ImageFileError(
            f"{path} is compressed with {compression}, which changes class values; export it again as PNG from the "
            "original"
        )
    if mode in CAUSES:
        why, fix = CAUSES[mode]
        raise ImageFileError(f"{path} {why} (mode {mode}), {EXPECTED}; {fix}")
    if mode not in HIGHEST:
        raise DatasetError(f"{path} {_of_colours(picture, mode)}")
    if INVERTED.fullmatch(raw_mode):
        raise ImageFileError(
            f"{path} is a TIFF in which 0 is white (photometric interpretation 0), so readers disagree about its "
            "values; save it as PNG"
        )
    values = np.asarray(picture)
    scaled = SCALED.fullmatch(raw_mode)
    if scaled is not None:
        bits = int(scaled[1])
        values, highest = values // (255 // (2**bits - 1)), 2**bits - 1
    else:
        highest = HIGHEST[mode]
    if mode == "L" and getattr(picture, "tag_v2", {}).get(SAMPLE_FORMAT) == (SIGNED,):
        values, highest = values.view(np.int8), 127
    if file.header.format == "GIF" and mode == "P" and _may_be_renumbered(picture, values):
        raise ImageFileError(
            f"{path} is a GIF whose palette has only the colours that occur, so its writer may have renumbered the "
            "values; export it again as PNG from the original"
        )
    return IndexMask(values.astype(np.int32), highest, _palette(picture))


def _may_be_renumbered(picture: Image.Image, values: npt.NDArray[np.uint8]) -> bool:
    """Whether a palette has no more entries than the values need. Pillow, e.g., drops the colours that do not occur."""
    used, size = np.unique(values), len(picture.getpalette("RGB") or ()) // 3
    return bool(used[-1] == len(used) - 1 and size <= max(4, 1 << (len(used) - 1).bit_length()))


def _palette(picture: Image.Image) -> npt.NDArray[np.uint8] | None:
    colours = picture.getpalette("RGB") if picture.mode == "P" else None
    if colours is None:
        return None
    palette = np.zeros((256, 3), np.uint8)
    palette.flat[: len(colours)] = colours
    return palette


def _of_colours(picture: Image.Image, mode: str) -> str:
    red, *others = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    if all(np.array_equal(red, other) for other in others):
        return f"is grey saved as colours (mode {mode}), {EXPECTED}; save one channel of it as PNG (mode L)"
    return f"has colours (mode {mode}), {EXPECTED}; convert its colours to class indices first"

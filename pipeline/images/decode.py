"""Decodes photographs to RGB, and the files of masks, whose values `pipeline.datasets` reads.

A photograph becomes uint8 RGB by fixed rules:

orientation  a file with an EXIF orientation is turned upright, as viewers show it; masks too
16 bits      the upper 8 bits of each channel, so 65535 is white; 12 bits of a TIFF likewise
grey, 1 bit  three equal channels
palette      the colours of the palette
alpha        ignored; transparent pixels have their stored colours
CMYK, YCbCr  converted without a colour profile
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import ImageFileError
from pipeline.images.formats import MASK, PHOTOGRAPH, PNG_SIGNATURE, Kind
from pipeline.images.header import DEEP_GREY, Header, guarded, open_file, unreadable

TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the stored pixels upright."""

COLOUR_MODES = ("1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", *DEEP_GREY)
BITS, COMPRESSION, UNCOMPRESSED = 258, 259, 1  # TIFF tags, and the value of the second
PLANES, SEPARATE = 284, 2
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF tag, and the value that Pillow applies to grey of at most 8 bits only


LIMIT_OF_PILLOW = threading.Lock()


class PixelLimit(NamedTuple):
    """The number of pixels up to which a file is decoded, and how to raise it: a text with {} for a number."""

    pixels: int
    fix: str = "set data.max_pixels: {}"


class Photograph(NamedTuple):
    """A decoded photograph."""

    header: Header
    pixels: npt.NDArray[np.uint8]
    """uint8 [H, W, 3] RGB, upright."""


class MaskFile(NamedTuple):
    """A decoded mask whose pixels have no meaning yet."""

    header: Header
    picture: Image.Image
    """Upright, in the mode of the file."""


def read_content(path: Path) -> bytes:
    """All bytes of a file; raises ImageFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def read_image(path: Path, limit: PixelLimit) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB, upright; raises ImageFileError."""
    return load_photograph(read_content(path), path, limit).pixels


def decode_image(content: bytes, path: Path, limit: PixelLimit) -> npt.NDArray[np.uint8]:
    """Content of a file -> uint8 [H, W, 3] RGB, upright; raises ImageFileError. path: for messages"""
    return load_photograph(content, path, limit).pixels


def load_photograph(content: bytes, path: Path, limit: PixelLimit) -> Photograph:
    """Header and pixels of a file's content; raises ImageFileError. path: for messages"""
    header, picture = _load(content, path, PHOTOGRAPH, limit)
    if header.mode not in COLOUR_MODES:
        raise ImageFileError(
            f"{path} has pixels of mode {header.mode}, whose white and black are unknown; save it again with 8 or 16 "
            "bits per channel, grey or RGB"
        )
    return Photograph(header, guarded(path, header, lambda: _as_rgb(picture, header)))


def load_mask(content: bytes, path: Path, limit: PixelLimit) -> MaskFile:
    """Header and pixels of the content of a mask's file; raises ImageFileError. path: for messages"""
    return MaskFile(*_load(content, path, MASK, limit))


def _load(content: bytes, path: Path, kind: Kind, limit: PixelLimit) -> tuple[Header, Image.Image]:
    """Header and upright pixels. Nothing is decoded above the limit."""
    header, picture = open_file(io.BytesIO(content), path, kind)
    height, width = header.size
    if height * width > limit.pixels:
        raise ImageFileError(
            f"{path} has {height} x {width} pixels, more than {limit.pixels}; cut it into smaller {kind.name}s, or, "
            f"if there is enough memory, {limit.fix.format(height * width)}"
        )
    _raise_limit_of_pillow(2 * height * width)  # a TIFF's tiles may be larger than its picture
    if header.format == "PNG":
        guarded(path, header, lambda: _check_png(content))
    tags = getattr(picture, "tag_v2", {})
    is_planar = tags.get(PLANES) == SEPARATE and tags.get(COMPRESSION) == UNCOMPRESSED
    if is_planar and max(tags.get(BITS, (8,))) > 8:
        raise ImageFileError(
            f"{path} is an uncompressed TIFF of 16 bits with one plane after the other, which Pillow mixes up; write "
            f"it again, e.g. by gdal_translate -co INTERLEAVE=PIXEL {path} NEW.tif"
        )
    return header, guarded(path, header, lambda: _upright(picture, header))


def _raise_limit_of_pillow(pixels: int) -> None:
    """Let Pillow decode a picture of a size that was allowed here: its reader of TIFF has a limit of its own."""
    with LIMIT_OF_PILLOW:
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, pixels)


def _check_png(content: bytes) -> None:
    """ValueError if the checksum of a chunk is wrong. Pillow checks only the chunks before the pixels."""
    view, position = memoryview(content), len(PNG_SIGNATURE)
    while len(start := view[position : position + 8]) == 8:
        length, name = struct.unpack(">I4s", start)
        end = position + 8 + length
        checksum = view[end : end + 4]
        if len(checksum) == 4 and zlib.crc32(view[position + 4 : end]) != int.from_bytes(checksum, "big"):
            raise ValueError("a checksum in it is wrong")
        if name == b"IEND":
            return
        position = end + 4


def _upright(picture: Image.Image, header: Header) -> Image.Image:
    """The decoded picture, turned by its EXIF orientation. Pillow turns a TIFF itself."""
    picture.load()
    turn = TURN.get(header.orientation) if header.format != "TIFF" else None
    return picture if turn is None else picture.transpose(turn)


def _as_rgb(picture: Image.Image, header: Header) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] by the rules of this module."""
    if picture.mode in DEEP_GREY:
        bits = 12 if header.raw_mode.startswith("I;12") else 16
        grey = (np.asarray(picture).astype(np.uint16) >> (bits - 8)).astype(np.uint8)
        if getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
            grey = 255 - grey
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("La", "RGBa"):  # alpha is multiplied in
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)

"""Rows of a TIFF that is too large to be decoded at once: the strips or tiles with these rows, as a TIFF of their own.

The reader of whole files decodes that TIFF, so its rules hold for every compression, depth and colour.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from pipeline.images.formats import Kind
from pipeline.images.header import UPRIGHT, Header, guarded, open_file, unreadable

WIDTH, LENGTH, COMPRESSION = 256, 257, 259
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_COUNTS = 273, 278, 279
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
PLANES = 284
SEPARATE = 2  # value of PLANES: the bands of the image one after the other
OF_PIXELS = (258, 262, 266, 277, 292, 293, 317, 320, 332, 338, 339, 347, 529, 530, 531, 532)
"""Tags that say what the pixels are: bits, colours, fill order, predictor, palette, tables of JPEG and so on."""
OLD_JPEG = 6  # compression whose tables are outside the strips
LONG, START = 4, 8  # TIFF's type of 32 bits; bytes before the first directory


class Band(NamedTuple):
    """A TIFF of some rows of another one. first: row of the other one that is its first"""

    content: bytes
    first: int


def has_bands(header: Header) -> bool:
    """Whether rows of a file can be decoded without the others."""
    return header.format == "TIFF" and header.orientation == UPRIGHT


def band_of(path: Path, kind: Kind, start: int, stop: int) -> Band:
    """A TIFF with the rows from `start` to `stop`, and those that share a strip or a tile with them.

    raises: ImageFileError for a file that cannot be read
    """
    try:
        with path.open("rb") as file:
            header, picture = open_file(file, path, kind)
            assert has_bands(header)
            return guarded(path, header, lambda: _band(file, picture, start, stop))
    except OSError as error:
        raise unreadable(path, error) from None


def _band(file: BinaryIO, picture: Any, start: int, stop: int) -> Band:
    assert isinstance(picture, TiffImageFile)
    tags = picture.tag_v2
    if tags.get(COMPRESSION) == OLD_JPEG:
        raise ValueError("it has a JPEG compression of the old kind; save it again")
    has_tiles = TILE_OFFSETS in tags
    width, length = tags[WIDTH], tags[LENGTH]
    across = -(-width // tags[TILE_WIDTH]) if has_tiles else 1
    height = min(length, tags[TILE_LENGTH] if has_tiles else tags.get(ROWS_PER_STRIP, length))
    offsets, counts = (TILE_OFFSETS, TILE_COUNTS) if has_tiles else (STRIP_OFFSETS, STRIP_COUNTS)
    first, last = start // height, -(-stop // height)
    per_plane = -(-length // height) * across
    num_planes = len(tags[offsets]) // per_plane if tags.get(PLANES) == SEPARATE else 1
    pieces = [plane * per_plane + k for plane in range(num_planes) for k in range(first * across, last * across)]
    data = [_read(file, tags[offsets][k], tags[counts][k]) for k in pieces]
    band = ImageFileDirectory_v2(struct.pack(f"{'>' if tags.prefix == b'MM' else '<'}2sHL", tags.prefix, 42, START))
    for tag in (COMPRESSION, PLANES, *OF_PIXELS):
        if tag in tags:
            _put(band, tag, tags.tagtype[tag], tags[tag])
    layout = {TILE_WIDTH: tags[TILE_WIDTH], TILE_LENGTH: height} if has_tiles else {ROWS_PER_STRIP: height}
    layout |= {WIDTH: width, LENGTH: min(length, last * height) - first * height, counts: tuple(map(len, data))}
    for tag, value in layout.items():
        _put(band, tag, LONG, value)
    return Band(_tiff(band, offsets, data), first * height)


def _put(directory: ImageFileDirectory_v2, tag: int, kind: int, value: Any) -> None:
    directory.tagtype[tag] = kind
    directory[tag] = value


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    content = file.read(count)
    if len(content) < count:
        raise ValueError("it is cut off")
    return content


def _tiff(directory: ImageFileDirectory_v2, offsets: int, data: list[bytes]) -> bytes:
    """The file: its head, its directory and the data. offsets: tag of their positions"""
    positions, position = [], 0
    for piece in data:
        positions.append(position)
        position += len(piece)
    _put(directory, offsets, LONG, tuple(positions))
    if offsets == TILE_OFFSETS:  # Pillow itself adds what is before the data to the positions of strips
        before = START + len(directory.tobytes(START))
        _put(directory, offsets, LONG, tuple(before + position for position in positions))
    order = ">" if directory.prefix == b"MM" else "<"
    head = struct.pack(f"{order}2sHL", directory.prefix, 42, START)
    return b"".join([head, directory.tobytes(START), *data])

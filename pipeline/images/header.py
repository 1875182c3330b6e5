"""The header of an image file: format, size, mode and orientation. Nothing is decoded here."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.errors import ImageFileError, first_line
from pipeline.images.formats import MASK, PHOTOGRAPH, PNG_SIGNATURE, START, Kind, format_of, other_format

Result = TypeVar("Result")

UPRIGHT = 1  # EXIF orientation
ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""

DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of 16-bit grey
UNKNOWN_BANDS = "unknown pixel mode"  # Pillow's message on the bands of a TIFF
PAGE_TYPE = 254  # TIFF tag NewSubfileType
COPY_OR_MASK = 1 | 4  # bits of a page's type: a smaller copy, or a transparency mask

READERS: Mapping[str, Callable[[BinaryIO], Any]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
"""Pillow's readers of our formats. `Image.open` would hide why a reader refuses a file."""


class Header(NamedTuple):
    """Facts of a file that are known before it is decoded."""

    format: str
    mode: str
    """Pillow's mode."""
    raw_mode: str
    """Pillow's name of the pixels as they are stored, e.g. `L;2` for two bits of grey; empty if the format has none."""
    size: tuple[int, int]
    """Height and width in pixels, upright."""
    orientation: int
    """EXIF orientation: 1 is upright, 5 to 8 lie on their side."""

    @property
    def is_deep(self) -> bool:
        """Whether a channel has more than 8 bits."""
        return self.mode in DEEP_GREY or ";16" in self.raw_mode


def png_text(path: Path, key: str) -> str | None:
    """A text that a PNG of ours contains before its pixels; None without one, and for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            text = open_file(file, path, MASK)[1].info.get(key)
    except (OSError, ImageFileError):
        return None
    return text if isinstance(text, str) else None


def tiff_tags(path: Path, tags: Collection[int]) -> dict[int, tuple[int, Any]]:
    """Type and value of those of the tags that an upright TIFF has; {} for other files, and for one that is turned.

    raises: ImageFileError
    """
    try:
        with path.open("rb") as file:
            header, picture = open_file(file, path, PHOTOGRAPH)
            if not isinstance(picture, TiffImagePlugin.TiffImageFile) or header.orientation != UPRIGHT:
                return {}
            found = picture.tag_v2
            return {tag: (found.tagtype[tag], found[tag]) for tag in tags if tag in found}
    except OSError as error:
        raise unreadable(path, error) from None


def read_header(path: Path, kind: Kind) -> Header:
    """Header of a file; nothing is decoded. Raises ImageFileError."""
    try:
        with path.open("rb") as file:
            return open_file(file, path, kind)[0]
    except OSError as error:
        raise unreadable(path, error) from None


def header_of(content: bytes, path: Path, kind: Kind) -> Header:
    """Header of a file's content; nothing is decoded. Raises ImageFileError. path: for messages"""
    return open_file(io.BytesIO(content), path, kind)[0]


def unreadable(path: Path, error: OSError) -> ImageFileError:
    """The error for a file that the system cannot read."""
    fix = "make it readable for you, or remove it" if isinstance(error, PermissionError) else "restore or remove it"
    return ImageFileError(f"{path} cannot be read ({error.strerror or first_line(error)}); {fix}")


def open_file(file: BinaryIO, path: Path, kind: Kind) -> tuple[Header, Image.Image]:
    """Header, and the picture that is not decoded yet; ImageFileError for another format and for several pictures."""
    found = format_of(file.read(START))
    file.seek(0)
    if found not in kind.formats:
        raise ImageFileError(f"{path} {other_format(found, kind)}")
    return guarded(path, None, lambda: _open_as(found, file, path))


def _open_as(format_name: str, file: BinaryIO, path: Path) -> tuple[Header, Image.Image]:
    try:
        picture = READERS[format_name](file)
    except SyntaxError as error:
        if str(error) != UNKNOWN_BANDS:
            raise
        raise ImageFileError(
            f"{path} has bands that are not read, expected 1, 3 or 4 of 8 or 16 bits, or up to 6 of 8 bits; write the "
            f"three that show red, green and blue, e.g. by gdal_translate -b 1 -b 2 -b 3 {path} NEW.tif"
        ) from None
    num = _num_pictures(picture)
    if num > 1:
        raise ImageFileError(f"{path} contains {num} pictures, expected one; save each in a file of its own")
    width, height = picture.size
    if not (height > 0 and width > 0):
        raise ImageFileError(f"{path} has {height} x {width} pixels; replace or remove it")
    orientation = _orientation(picture, file)
    if orientation in ON_ITS_SIDE and format_name != "TIFF":  # Pillow's size of a TIFF is that of the upright picture
        width, height = height, width
    return Header(format_name, picture.mode, _raw_mode(picture), (height, width), orientation), picture


def _num_pictures(picture: Image.Image) -> int:
    """Number of pictures in a file. Smaller copies and masks of TIFF pages, and previews of a JPEG, do not count."""
    num = getattr(picture, "n_frames", 1)
    if num == 1 or picture.format in ("JPEG", "MPO"):
        return 1
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return num
    kinds = []
    for page in range(num):
        picture.seek(page)
        kinds.append(picture.tag_v2.get(PAGE_TYPE, 0))
    picture.seek(0)
    return 1 + sum(not kind & COPY_OR_MASK for kind in kinds[1:])


def _raw_mode(picture: Any) -> str:
    """Pillow's name of the stored pixels, from its description of the first tile."""
    tile = picture.tile[0] if getattr(picture, "tile", None) else None
    arguments = tile[3] if tile is not None else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _orientation(picture: Image.Image, file: BinaryIO) -> int:
    """EXIF orientation, from what stands before the pixels and, in a PNG, from the chunk behind them."""
    if picture.format == "PNG" and "exif" not in picture.info and (exif := _exif_chunk(file)):
        picture.info["exif"] = exif
    try:
        orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, UPRIGHT)  # that of PNG decodes first
    except Exception:  # damaged EXIF is common, and says nothing about the pixels
        return UPRIGHT
    return orientation if orientation in range(1, 9) else UPRIGHT


def _exif_chunk(file: BinaryIO) -> bytes:
    """Content of a PNG's eXIf chunk, empty without one. The position in the file is kept."""
    position = file.tell()
    file.seek(len(PNG_SIGNATURE))
    found = b""
    while len(start := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        if name == b"eXIf":
            found = file.read(length)
            break
        file.seek(length + 4, io.SEEK_CUR)  # over the content and its checksum
    file.seek(position)
    return found


def guarded(path: Path, header: Header | None, read: Callable[[], Result]) -> Result:
    """The result of `read`; ImageFileError for whatever Pillow raises."""
    try:
        return read()
    except ImageFileError:
        raise
    except MemoryError:
        shape = "" if header is None else f" for {header.size[0]} x {header.size[1]} pixels"
        raise ImageFileError(f"{path} needs more memory{shape} than there is; cut it into smaller images") from None
    except Exception as error:  # Pillow's readers raise many types of errors at damaged files
        is_clear = isinstance(error, OSError | SyntaxError | ValueError)
        why = first_line(error) if is_clear else "it is damaged or cut off"
        raise ImageFileError(f"{path} cannot be read ({why}); replace or remove it") from None

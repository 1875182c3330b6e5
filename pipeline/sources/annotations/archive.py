"""Unpacks zips of annotations: only files that a format reads, and only if they cannot fill the disk."""

from __future__ import annotations

import lzma
import shutil
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.errors import DatasetError, first_line
from pipeline.files import MASK_SUFFIXES
from pipeline.text import is_one_line

SUFFIXES = (".json", ".txt", ".xml", ".yaml", ".yml", *MASK_SUFFIXES)
JPEGS = (".jpg", ".jpeg")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, NotImplementedError)
ENCRYPTED = 0x1
FREE_BYTES = 64 << 20  # of any zip
BYTES_PER_PIXEL = 16  # of the images of a run: their masks and copies of them, uncompressed, and outlines as text
MAX_RATIO = 200  # bytes per compressed byte, above FREE_BYTES


def unpack(source: Path, folder: Path, num_pixels: int) -> None:
    """Unpack a zip into an empty folder. Other files than masks and annotations, and hidden files, stay packed.

    num_pixels: of all images of the run, the measure of what the zip may contain
    raises:     DatasetError for a zip that is damaged, encrypted, or of another kind, that has names of files outside
                the folder or a name twice, or that is much larger than masks of these images are
    """
    try:
        with zipfile.ZipFile(source) as archive:
            listed = archive.infolist()
            # masks may be JPEGs, but beside annotations these are the photographs
            entries = [one for one in listed if is_wanted(one)] or [one for one in listed if is_wanted(one, JPEGS)]
            check(source, entries, FREE_BYTES + BYTES_PER_PIXEL * num_pixels)
            for entry in entries:
                path = folder / entry.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, path.open("xb") as file:
                    shutil.copyfileobj(packed, file)
    except DAMAGED as error:
        raise DatasetError(f"{source} is not a complete zip ({first_line(error)}); export it again") from None


def is_wanted(entry: zipfile.ZipInfo, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a format reads the file. macOS adds hidden files, and a folder __MACOSX, with the names of others."""
    path = PurePosixPath(entry.filename)
    is_hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)
    return not entry.is_dir() and path.suffix.lower() in suffixes and not is_hidden


def check(source: Path, entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """DatasetError for entries that must not be unpacked. zipfile never writes more bytes than an entry announces."""
    names = set()
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not is_one_line(name):
            raise DatasetError(f"{source} has the entry {name!r}, a file outside the zip; export it again")
        if path in names:
            raise DatasetError(f"{source} has the entry {name!r} twice; remove one of them")
        names.add(path)
        if entry.flag_bits & ENCRYPTED:
            raise DatasetError(f"{source} is encrypted ({name!r}); unpack it, and give the folder instead")
        if entry.compress_type not in METHODS:
            raise DatasetError(
                f"{source} uses the compression method {entry.compress_type} ({name!r}), which Python does not have; "
                "unpack it, and give the folder instead"
            )
    size, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if size > max_bytes or size > max(FREE_BYTES, MAX_RATIO * packed):
        raise DatasetError(
            f"{source} would unpack to {size / 1e9:.1f} GB from {packed / 1e9:.3f} GB, much more than masks of the "
            "run's images need; export only the masks, or unpack it and give the folder instead"
        )

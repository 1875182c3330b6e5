"""Masks whose colours stand for labels: exact colours in PNG and the like, nearest colours in JPEG."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError, ImageFileError
from pipeline.files import MASK_SUFFIXES, files_in
from pipeline.images import MASK, PHOTOGRAPH, PixelLimit, is_index_mode, read_header, read_image
from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations, Drawn, Size, refuse_size
from pipeline.sources.annotations.colour_table import Colour, read_colour_table
from pipeline.sources.annotations.coloured import make_legend, read_coloured

JPEG_SUFFIXES = (".jpg", ".jpeg")
SUFFIXES = (*MASK_SUFFIXES, *JPEG_SUFFIXES)
MAX_UNNAMED = 64  # more colours are probably not classes
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
GREY = 16  # difference of the channels up to which a pixel of a JPEG is grey
DARK, LIGHT = 63, 192  # greys up to and from which a pixel of a JPEG is black or white
BLOCK = 8  # pixels of the side of a block that JPEG compresses
MAX_SHOWN = 5
CLEAR = 0.25  # of the distance to the next colour: a pixel that is nearer than this to a colour has it
MAX_UNCLEAR = 0.1  # fraction of the pixels of a mask that may lie between colours, along edges
LIST_COLOURS = "list the colours of all classes in a file with lines such as cat,255,0,0, and add --colours FILE"

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""


def are_here(folder: Path, below: bool) -> bool:
    """Whether all masks of a folder are pictures in colours, or JPEGs. below: also those in sub-folders"""
    files = files_in(folder, SUFFIXES, below)
    return bool(files) and all(map(_is_coloured, files))


def _is_coloured(path: Path) -> bool:
    if path.suffix.lower() in JPEG_SUFFIXES:
        return True
    try:
        return not is_index_mode(read_header(path, MASK).mode)
    except ImageFileError:
        return False


def read(folder: Path, table: Path | None, below: bool, max_pixels: int) -> Annotations:
    """The masks of a folder, by a table of colours. Without a table, every colour is a label of its own.

    Black without a name is background. JPEGs without a table must be black and white.

    raises: DatasetError for files that cannot be read, and for colours that need a table
    """
    files = files_in(folder, SUFFIXES, below)
    limit = PixelLimit(max_pixels, "add --set data.max_pixels={}")
    named = read_colour_table(table) if table is not None else proposed(folder, below, max_pixels)
    names, colours = [name for name, _ in named], [colour for _, colour in named]
    legend = make_legend(names, [], colours, table or folder)
    images = [
        _jpeg(path, folder, names, colours, limit)
        if path.suffix.lower() in JPEG_SUFFIXES
        else read_coloured(path, folder, legend)
        for path in files
    ]
    return Annotations(list(dict.fromkeys(names)), images, [] if table is not None else _proposal(named))


def _proposal(named: Sequence[tuple[str, Colour]]) -> list[str]:
    head = (
        "without --colours, each colour is a class; the annotator needs names: write these lines with other names in a"
    )
    return [f"{head} file, and add --colours FILE", *table_lines(named)]


def table_lines(named: Sequence[tuple[str, Colour]]) -> list[str]:
    """The lines of a table, indented."""
    return [f"  {name},{','.join(map(str, colour))}" for name, colour in named]


def proposed(folder: Path, below: bool, max_pixels: int) -> list[tuple[str, Colour]]:
    """A name for every colour that occurs in the masks of a folder; for JPEGs black and white.

    raises: DatasetError as `read`
    """
    files = files_in(folder, SUFFIXES, below)
    limit = PixelLimit(max_pixels, "add --set data.max_pixels={}")
    found: set[int] = set()
    for path in files:
        pixels = read_image(path, limit)
        if path.suffix.lower() in JPEG_SUFFIXES:
            found |= _black_and_white(pixels, path)
        else:
            found |= set(np.unique(pixels.reshape(-1, 3).astype(np.int64) @ (1 << 16, 1 << 8, 1)).tolist())
    if len(found) > MAX_UNNAMED:
        raise DatasetError(
            f"the {len(files)} masks in {files[0].parent} have {len(found)} colours, more than {MAX_UNNAMED}: they "
            f"were probably smoothed or compressed; export them again without smoothing, or {LIST_COLOURS}"
        )
    colours = [(code >> 16, code >> 8 & 0xFF, code & 0xFF) for code in sorted(found)]
    return [("background" if c == BLACK else "class #{:02x}{:02x}{:02x}".format(*c), c) for c in colours]


def _black_and_white(pixels: Pixels, path: Path) -> set[int]:
    """Black and white; DatasetError for a JPEG in colours, and for one of class values.

    A JPEG of class values 0, 1, 2 looks black, but has flat blocks of several greys.
    """
    if (np.ptp(pixels, axis=2) > GREY).mean() > MAX_UNCLEAR:
        raise DatasetError(f"{path} is a JPEG in colours, whose exact colours are lost; {LIST_COLOURS}")
    flat = _flat_greys(pixels[..., 0])
    dark = sum(grey <= DARK for grey in flat)
    light = sum(grey >= LIGHT for grey in flat)
    if dark > 1 or light > 1 or dark + light < len(flat):
        greys = ", ".join(map(str, flat[:MAX_SHOWN])) + (", ..." if len(flat) > MAX_SHOWN else "")
        raise DatasetError(
            f"{path} is a JPEG with areas of the greys {greys}, expected black and white; if these are class values, "
            f"compression has changed them: export the mask again as PNG from the original; otherwise {LIST_COLOURS}"
        )
    return {0, 0xFFFFFF}


def _flat_greys(grey: npt.NDArray[np.uint8]) -> list[int]:
    """The values of the blocks in which a JPEG has one value only."""
    height, width = (length // BLOCK * BLOCK for length in grey.shape)
    blocks = grey[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    lowest, highest = blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))
    return np.unique(lowest[lowest == highest]).tolist()  # type: ignore[no-any-return]


def _jpeg(
    path: Path, folder: Path, names: Sequence[str], colours: Sequence[Colour], limit: PixelLimit
) -> AnnotatedImage:
    draw = functools.partial(_nearest, path, np.array(colours, np.int64), limit)
    return AnnotatedImage(str(path.relative_to(folder)), str(path), names, draw)


def _nearest(path: Path, colours: npt.NDArray[np.int64], limit: PixelLimit, size: Size) -> Drawn:
    """The mask in a JPEG: each pixel has the nearest colour; pixels that lie between two colours are void.

    colours: int64 [K, 3]
    raises:  DatasetError if too many pixels lie between colours, so that these are not the colours of the mask
    """
    refuse_size(str(path), read_header(path, PHOTOGRAPH).size, size)
    pixels = read_image(path, limit).astype(np.int64)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    bounds = CLEAR * apart.min(axis=1)
    nearest, distance = np.zeros(size, np.int64), np.full(size, np.inf)
    for index, colour in enumerate(colours):
        from_colour = np.linalg.norm(pixels - colour, axis=2)
        nearest[from_colour < distance] = index
        np.minimum(distance, from_colour, out=distance)
    is_unclear = distance > bounds[nearest]
    if is_unclear.mean() > MAX_UNCLEAR:
        red, green, blue = pixels[is_unclear][0]
        raise DatasetError(
            f"{path}: {100 * is_unclear.mean():.0f} % of its pixels are near no colour of a class, e.g. "
            f"{red},{green},{blue}; at most {100 * MAX_UNCLEAR:.0f} % may be, along edges; export the mask as PNG, or "
            f"{LIST_COLOURS}"
        )
    return Drawn(np.where(is_unclear, IGNORE_INDEX, nearest + 1).astype(np.uint8))

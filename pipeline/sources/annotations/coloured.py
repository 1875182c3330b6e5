"""Decodes masks of other tools: palette, grey or colour images whose values or colours stand for labels."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError, ImageFileError
from pipeline.images import (
    MASK,
    PixelLimit,
    header_of,
    index_mask,
    is_index_mode,
    load_mask,
    pixel_colours,
    read_content,
)
from pipeline.sources.annotations.annotated import AnnotatedImage, Drawn, Size, refuse_size

Codes = npt.NDArray[np.int64]
"""int64 [H, W]: values of a mask, or its colours as 0xRRGGBB numbers."""

MAX_SHOWN = 5
NUM_COLOURS = 2**24


class Legend(NamedTuple):
    """The names of labels, and the index of each by mask value and by colour.

    where: file that names them
    """

    names: Sequence[str]
    by_value: Mapping[int, int]
    by_colour: Mapping[int, int]
    where: Path


def make_legend(names: Sequence[str], values: Sequence[int], colours: Sequence[Sequence[int]], where: Path) -> Legend:
    """A legend of labels, each with a value and a colour (red, green, blue).

    values: [] if the labels have colours only

    raises: DatasetError for two equal colours, and for too many labels
    """
    if len(names) >= IGNORE_INDEX:
        raise DatasetError(f"{where} has {len(names)} labels, expected at most {IGNORE_INDEX - 1}; shorten it")
    packed = [pack(colour) for colour in colours]
    for i, colour in enumerate(packed):
        if colour in packed[:i]:
            first = names[packed.index(colour)]
            raise DatasetError(
                f"{where} gives {names[i]} and {first} the same colour #{colour:06x}; change one of the colours"
            )
    indices = range(len(names))
    return Legend(
        names, dict(zip(values, indices, strict=bool(values))), dict(zip(packed, indices, strict=True)), where
    )


def pack(colour: Sequence[int]) -> int:
    """A colour (red, green, blue) as the number 0xRRGGBB."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def read_coloured(path: Path, folder: Path, legend: Legend) -> AnnotatedImage:
    """The mask of a file below a folder. Its pixels are read later, by `AnnotatedImage.draw`."""
    return AnnotatedImage(
        str(path.relative_to(folder)), str(path), legend.names, functools.partial(decode, path, legend)
    )


def decode(path: Path, legend: Legend, size: Size) -> Drawn:
    """The mask in one file: by its colours if all of them are in the legend, otherwise by its values.

    A palette may therefore be in any order, as some painting programs write it, or have other colours.

    size:   height and width of its image; a mask of another size is not decoded
    raises: DatasetError for a file that cannot be read or has another size, and for values or colours of no class
    """
    values, colours = _read(path, size)
    if colours is not None and (values is None or set(_present(colours)) <= legend.by_colour.keys()):
        return Drawn(_mask(path, colours, legend.by_colour, "colour #{:06x}", legend.where))
    assert values is not None
    return Drawn(_mask(path, values, legend.by_value, "value {}", legend.where))


def _read(path: Path, size: Size) -> tuple[Codes | None, Codes | None]:
    """Values and colours of an image; None if it has none."""
    try:
        content = read_content(path)
        refuse_size(str(path), header_of(content, path, MASK).size, size)
        file = load_mask(content, path, PixelLimit(math.prod(size)))
        mask = index_mask(file, path) if is_index_mode(file.header.mode) else None
    except ImageFileError as error:
        raise DatasetError(f"{str(error).partition('; ')[0]}; export it again") from None
    return None if mask is None else mask.values.astype(np.int64), pixel_colours(file, mask)


def _mask(path: Path, codes: Codes, indices: Mapping[int, int], shown: str, where: Path) -> npt.NDArray[np.uint8]:
    """Index of the label of each pixel plus 1, uint8 [H, W]."""
    present = _present(codes)
    unknown = [shown.format(code) for code in present if code not in indices]
    if unknown:
        listed = ", ".join(unknown[:MAX_SHOWN]) + (", ..." if len(unknown) > MAX_SHOWN else "")
        raise DatasetError(
            f"{path} has {listed}, which stands for no label of {where}; paint these pixels with one of its labels"
        )
    number_of = np.zeros(present[-1] + 1, np.uint8)
    number_of[present] = [indices[code] + 1 for code in present]
    mask: npt.NDArray[np.uint8] = number_of[codes]
    return mask


def _present(codes: Codes) -> list[int]:
    """The codes that occur, in order. Counting is a tenth of the work of sorting."""
    if codes.min() < 0 or codes.max() >= NUM_COLOURS:
        return np.unique(codes).tolist()  # type: ignore[no-any-return]
    return np.flatnonzero(np.bincount(codes.ravel())).tolist()

"""Index masks as palette PNGs: value = class index, 255 = abstain. The class names are in classes.txt."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ABSTAIN, ABSTAIN_COLOUR, ExportedLabels, Label
from pipeline.files import MASK_SUFFIXES, files_in
from pipeline.palette import Colours, class_colours
from pipeline.settings import DataSettings
from pipeline.sources.annotations.annotated import Annotations
from pipeline.sources.annotations.coloured import make_legend, read_coloured
from pipeline.text import read_lines

CLASSES = "classes.txt"


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> None:
    """Write ID.png at the image's own size."""
    save_palette_png(folder / f"{exported.samples[index].id}.png", label, exported.colours)


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write the names of the classes, one per line. The first line is value 0."""
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in exported.class_names), encoding="utf-8")


def save_palette_png(path: Path, label: Label, colours: Colours) -> None:
    """Write a label in the colours of its classes, uint8 [K, 3]. Pixels without a label are white."""
    palette_picture(label, colours).save(path, format="PNG", compress_type=zlib.Z_RLE)


def palette_picture(label: Label, colours: Colours) -> Image.Image:
    """A label as a picture whose palette has the colours of its classes, uint8 [K, 3], and white for 255."""
    palette = np.zeros((IGNORE_INDEX + 1, 3), np.uint8)
    palette[: len(colours)] = colours
    palette[IGNORE_INDEX] = ABSTAIN_COLOUR
    picture = Image.fromarray(label)
    picture.putpalette(palette.tobytes())
    return picture


def read(folder: Path, data: DataSettings) -> Annotations:
    """The masks of a folder. Their values are line numbers of classes.txt, or class indices of the run without it.

    Pictures in colours have those of `class_colours`.
    """
    names, where = data.class_names, Path("data.classes")
    background = data.background_index
    if (folder / CLASSES).is_file():
        where = folder / CLASSES
        names = read_lines(where)
        background = names.index(data.background) if data.background in names else None
    colours = colours_of(len(names), background)
    values = [*range(len(names)), IGNORE_INDEX]
    legend = make_legend([*names, ABSTAIN], values, colours, where)
    files = files_in(folder, MASK_SUFFIXES, data.subfolders)
    return Annotations(legend.names, [read_coloured(path, folder, legend) for path in files])


def colours_of(num_classes: int, background: int | None) -> list[Sequence[int]]:
    """Colours (red, green, blue) of the classes of an export, and of pixels without a label."""
    return [*class_colours(num_classes, background).tolist(), ABSTAIN_COLOUR]

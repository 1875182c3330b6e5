"""CVAT's "Segmentation mask 1.1": masks in the layout of PASCAL VOC, with the colour of each label in labelmap.txt."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import DatasetError
from pipeline.files import files_in
from pipeline.sources.annotations.annotated import Annotations
from pipeline.sources.annotations.coloured import make_legend, read_coloured
from pipeline.text import read_lines

LABELMAP = "labelmap.txt"
MASKS = "SegmentationClass"
CHANNEL = re.compile(r"[0-9]{1,3}")


def is_here(source: Path) -> bool:
    """Whether a folder is an unpacked archive."""
    return (source / LABELMAP).is_file()


def read(source: Path) -> Annotations:
    """The masks of an unpacked archive. A mask belongs to the image with the stem of its file, also in subfolders.

    raises: DatasetError for a label map that is missing or malformed
    """
    labelmap = source / LABELMAP
    if not labelmap.is_file():
        raise DatasetError(f"no {LABELMAP} in {source}; export the task as Segmentation mask 1.1")
    names, colours = [], []
    for line in read_lines(labelmap):
        if line.strip() and not line.startswith("#"):
            name, colour = _parse(line, labelmap)
            names.append(name)
            colours.append(colour)
    legend = make_legend(names, range(len(names)), colours, labelmap)
    folder = source / MASKS
    files = files_in(folder, (".png",), below=True)
    return Annotations(names, [read_coloured(path, folder, legend) for path in files])


def _parse(line: str, labelmap: Path) -> tuple[str, list[int]]:
    """Name and colour of a line such as `cat:10,20,30::`."""
    name, _, rest = line.partition(":")
    channels = rest.split(":")[0].split(",")
    if len(channels) != 3 or not all(CHANNEL.fullmatch(c.strip()) and int(c) < 256 for c in channels):
        raise DatasetError(f"{labelmap} has the line {line!r}, expected NAME:RED,GREEN,BLUE::; export the task again")
    return name, [int(channel) for channel in channels]

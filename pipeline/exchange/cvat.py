"""CVAT's "Segmentation mask 1.1": a zip in the layout of PASCAL VOC, with the colour of each label in labelmap.txt."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError, StoreError
from pipeline.exchange.coloured import make_legend, read_coloured
from pipeline.exchange.incoming import UNANNOTATED, Incoming
from pipeline.exchange.labels import ABSTAIN, ABSTAIN_COLOUR, ExportedLabels, Label
from pipeline.files import files_in
from pipeline.palette import Colours
from pipeline.settings import DataSettings
from pipeline.text import read_lines

ARCHIVE = "annotations.zip"
LABELMAP = "labelmap.txt"
MASKS = "SegmentationClass"
LIST = "ImageSets/Segmentation/default.txt"
HEADER = "# label:color_rgb:parts:actions"
CHANNEL = re.compile(r"[0-9]{1,3}")
CONTENT = "content"  # folder that is zipped


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> str:
    """Write the mask of the image at an index of the store in colours.

    returns: path of the image
    raises:  StoreError for class names that CVAT cannot store
    """
    refuse_names(exported.class_names)
    masks = folder / CONTENT / MASKS
    masks.mkdir(parents=True, exist_ok=True)
    colours = np.full((IGNORE_INDEX + 1, 3), ABSTAIN_COLOUR, np.uint8)
    colours[: len(exported.class_names)] = label_colours(exported)
    picture = Image.fromarray(colours[label])
    picture.save(masks / f"{exported.samples[index].id}.png", format="PNG", compress_type=zlib.Z_RLE)
    return str(exported.index.root / exported.samples[index].image)


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Zip the masks with their label map and list. Write the labels of the task, and the list of images to upload."""
    content, colours = folder / CONTENT, label_colours(exported)
    labels = [*zip(exported.class_names, colours.tolist(), strict=True), (ABSTAIN, ABSTAIN_COLOUR)]
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in labels]
    _write_lines(content / LABELMAP, [HEADER, *lines])
    _write_lines(content / LIST, [exported.samples[index].id for index, _ in rows])
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:  # PNGs are compressed already
        for path in sorted(path for path in content.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(content))
    shutil.rmtree(content)
    task = [{"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour), "attributes": []} for name, colour in labels]
    (folder / "labels.json").write_text(json.dumps(task, indent=1) + "\n", encoding="utf-8")
    _write_lines(folder / "images.txt", [path for _, path in rows])


def label_colours(exported: ExportedLabels) -> Colours:
    """uint8 [K, 3] RGB, the palette of the run. A class called `background` is black, as in CVAT."""
    colours = exported.colours.copy()
    if UNANNOTATED in exported.class_names:
        colours[exported.class_names.index(UNANNOTATED)] = 0
    return colours


def refuse_names(class_names: Sequence[str]) -> None:
    """StoreError for class names that a label map cannot contain."""
    for name in class_names:
        if name == ABSTAIN or ":" in name or name.startswith("#"):
            raise StoreError(
                f"the class {name!r} cannot be exported to CVAT: in its label map ':' is a separator, '#' starts a "
                f"comment, and {ABSTAIN!r} means no label; rename it in data.classes, or use another format"
            )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_masks(folder: Path, data: DataSettings) -> list[Incoming]:
    """The masks of an unpacked archive. A mask belongs to the image with the stem of its file, also in subfolders.

    raises: DatasetError for a label map that is missing or malformed
    """
    labelmap = folder / LABELMAP
    if not labelmap.is_file():
        raise DatasetError(f"no {LABELMAP} in {folder}; export the task as Segmentation mask 1.1")
    names, colours = [], []
    for line in read_lines(labelmap):
        if line.strip() and not line.startswith("#"):
            name, colour = _parse(line, labelmap)
            names.append(name)
            colours.append(colour)
    legend = make_legend(names, range(len(names)), colours, data.class_names, labelmap)
    return [read_coloured(path, legend) for path in files_in(folder / MASKS, (".png",), below=True)]


def _parse(line: str, labelmap: Path) -> tuple[str, list[int]]:
    """Name and colour of a line such as `cat:10,20,30::`."""
    name, _, rest = line.partition(":")
    channels = rest.split(":")[0].split(",")
    if len(channels) != 3 or not all(CHANNEL.fullmatch(c.strip()) and int(c) < 256 for c in channels):
        raise DatasetError(f"{labelmap} has the line {line!r}, expected NAME:RED,GREEN,BLUE::; export the task again")
    return name, [int(channel) for channel in channels]

"""CVAT's "Segmentation mask 1.1": a zip in the layout of PASCAL VOC, with the colour of each label in labelmap.txt."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import StoreError
from pipeline.exchange.incoming import UNANNOTATED
from pipeline.exchange.labels import ABSTAIN, ABSTAIN_COLOUR, ExportedLabels, Label
from pipeline.palette import Colours
from pipeline.sources.annotations.cvat_masks import LABELMAP, MASKS

ARCHIVE = "annotations.zip"
LIST = "ImageSets/Segmentation/default.txt"
HEADER = "# label:color_rgb:parts:actions"
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

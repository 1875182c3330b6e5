"""LabelMe's JSON, one beside each image: one polygon per region. Abstained regions are polygons named __ignore__."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ExportedLabels, Label, refuse_class
from pipeline.exchange.polygons import Polygon, outlines

IGNORE = "__ignore__"  # LabelMe's name of pixels that do not count
VERSION = "6.3.1"  # of LabelMe, whose files these are like
DIGITS = 2  # of coordinates in pixels


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> None:
    """Put ID.SUFFIX, and write ID.json beside it; StoreError for a class with the name IGNORE."""
    refuse_class(IGNORE, exported.class_names, "LabelMe")
    sample, files = exported.samples[index], exported.image_files
    name = f"{sample.id}{files.suffix(sample)}"
    files.put(sample, folder / name)
    names = [*exported.class_names, IGNORE]
    numbered = np.where(label == IGNORE_INDEX, len(names) - 1, label).astype(np.uint8)
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": [_shape(polygon, names) for polygon in outlines(numbered)],
        "imagePath": name,
        "imageData": None,
        "imageHeight": sample.height,
        "imageWidth": sample.width,
    }
    (folder / f"{sample.id}.json").write_text(json.dumps(content), encoding="utf-8")


def _shape(polygon: Polygon, names: Sequence[str]) -> dict[str, Any]:
    return {
        "label": names[polygon.class_index],
        "points": polygon.points.round(DIGITS).tolist(),
        "group_id": None,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write labels.txt for `labelme --labels`: __ignore__, and the names of the classes."""
    lines = [IGNORE, *exported.class_names]
    (folder / "labels.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

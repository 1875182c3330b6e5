"""YOLO's segmentation text: one line per region, its class and its outline in fractions of the image's size.

YOLO has no pixels without a label. Whatever is outside all outlines is background, so abstained pixels are background,
and a class called background has no outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.exchange.polygons import outlines
from pipeline.exchange.texts import render


def object_names(class_names: Sequence[str], background: int | None) -> list[str]:
    """The names of the classes that have outlines. Their numbers in YOLO are their indices in this list."""
    return [name for index, name in enumerate(class_names) if index != background]


def lines(label: Label, background: int | None) -> list[str]:
    """The lines of a label's file: class number, then x and y of each corner in [0, 1].

    label:      uint8 [H, W], class index, 255 = no label
    background: index of the class that has no outlines, or None
    """
    height, width = label.shape
    found = []
    for polygon in outlines(label):
        if polygon.class_index == background:
            continue
        number = polygon.class_index - (background is not None and polygon.class_index > background)
        corners = (polygon.points / (width, height)).ravel().tolist()
        found.append(" ".join([str(number), *(f"{value:.6f}" for value in corners)]))
    return found


def read_back(label: Label, background: int | None) -> Label:
    """The label that a reader finds: pixels without a label are background, if there is such a class."""
    return label if background is None else np.where(label == IGNORE_INDEX, np.uint8(background), label)


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> None:
    """Write labels/train/ID.txt, and put images/train/ID beside it."""
    sample = exported.samples[index]
    for name in ("images", "labels"):
        (folder / name / "train").mkdir(parents=True, exist_ok=True)
    files = exported.image_files
    files.put(sample, folder / f"images/train/{sample.id}{files.suffix(sample)}")
    text = "".join(f"{line}\n" for line in lines(label, exported.background))
    (folder / f"labels/train/{sample.id}.txt").write_text(text, encoding="utf-8")


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write data.yaml, which names the classes."""
    names = object_names(exported.class_names, exported.background)
    text = render("yolo.yaml.jinja", names=names)
    (folder / "data.yaml").write_text(text, encoding="utf-8")

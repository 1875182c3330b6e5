"""A folder that Hugging Face's `datasets.load_dataset` reads: columns image, label, id, keep_rate and pixels.

It may also be written without the images, and then has no column image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.exchange.png import save_palette_png
from pipeline.exchange.texts import render

METADATA = "metadata.jsonl"


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> dict[str, Any]:
    """Copy the image at an index of the store unchanged, and write its label.

    returns: its line of the metadata
    raises:  DatasetError if the image file is not the one that prepare read
    """
    sample = exported.samples[index]
    (folder / "images").mkdir(exist_ok=True)
    copy = f"images/{sample.id}{Path(sample.image).suffix.lower()}"
    (folder / copy).write_bytes(exported.image_bytes(index))
    return {"file_name": copy, **write_mask(folder, exported, index, label)}  # file_name becomes the column `image`


def write_mask(folder: Path, exported: ExportedLabels, index: int, label: Label) -> dict[str, Any]:
    """Write the label alone of an image at an index of the store; returns its line of the metadata."""
    sample = exported.samples[index]
    (folder / "labels").mkdir(exist_ok=True)
    save_palette_png(folder / f"labels/{sample.id}.png", label, exported.colours)
    counts = np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)
    return {
        "label_file_name": f"labels/{sample.id}.png",  # becomes the column `label`
        "id": sample.id,
        "keep_rate": 1 - int(counts[IGNORE_INDEX]) / label.size,
        "pixels": dict(zip(exported.class_names, counts[: len(exported.class_names)].tolist(), strict=True)),
    }


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write the metadata, the names of the classes, and the card."""
    (folder / METADATA).write_text("".join(f"{json.dumps(row)}\n" for _, row in rows), encoding="utf-8")
    names = {str(index): name for index, name in enumerate(exported.class_names)}
    (folder / "id2label.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(facts), encoding="utf-8")


def card(facts: dict[str, Any]) -> str:
    """The data set's card in Markdown."""
    return render("card.md", **facts, ignore=IGNORE_INDEX, has_images=facts["format"] == "huggingface")

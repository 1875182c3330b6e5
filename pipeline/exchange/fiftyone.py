"""FiftyOne's ImageSegmentationDirectory: images, masks and a script that loads them.

FiftyOne hides value 0 of a mask, so 0 stands for no label, and class k has the value k + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.exchange.ome_zarr import label_ids
from pipeline.exchange.texts import render
from pipeline.files import write_json


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> float:
    """Put data/ID.SUFFIX, write labels/ID.png, and return the keep rate."""
    sample, files = exported.samples[index], exported.image_files
    for name in ("data", "labels"):
        (folder / name).mkdir(exist_ok=True)
    files.put(sample, folder / f"data/{sample.id}{files.suffix(sample)}")
    ids = label_ids(label)
    Image.fromarray(ids).save(folder / f"labels/{sample.id}.png", format="PNG", compress_level=1)
    return float((ids > 0).mean())


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write the names of the values, the keep rates, and the script."""
    content = {
        "mask_targets": {str(index + 1): name for index, name in enumerate(exported.class_names)},
        "keep_rate": {exported.samples[index].id: rate for index, rate in rows},
    }
    write_json(folder / "classes.json", content)
    (folder / "load.py").write_text(render("fiftyone.py.jinja"), encoding="utf-8")

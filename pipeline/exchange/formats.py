"""The table of formats: the functions that write each format, and that read masks of annotation tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError
from pipeline.exchange import coco, cvat, huggingface, ome_zarr, png
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.settings import did_you_mean

Write = Callable[[Path, ExportedLabels, int, Label], Any]
"""Writes the files of one image. Arguments: folder, store, index in the store, label. It runs in several threads."""
WriteRest = Callable[[Path, ExportedLabels, Sequence[tuple[int, Any]], dict[str, Any]], None]
"""Writes the common files at the end. Arguments: folder, store, (index, result of `Write`) per image, provenance."""


class Format(NamedTuple):
    """One format. next_step: instructions for the user; {folder} is replaced by the folder"""

    write_image: Write
    write_rest: WriteRest
    next_step: str


FORMATS = {
    "png": Format(
        png.write_image,
        png.write_rest,
        "value = class index, 255 = no label; names in {folder}/classes.txt",
    ),
    "coco": Format(
        coco.write_image,
        coco.write_rest,
        "pycocotools.coco.COCO('{folder}/annotations.json')",
    ),
    "ome-zarr": Format(
        ome_zarr.write_image,
        ome_zarr.write_rest,
        "napari --plugin napari-ome-zarr {folder}/ID.zarr (label layers start hidden)",
    ),
    "cvat": Format(
        cvat.write_image,
        cvat.write_rest,
        "in CVAT create a task with the labels of {folder}/labels.json (tab Raw) and the images of {folder}/images.txt "
        "and upload {folder}/annotations.zip as Segmentation mask 1.1; export the corrected task in the same format, "
        "then run conformalsam import-masks RUN task.zip",
    ),
    "huggingface": Format(
        huggingface.write_image,
        huggingface.write_rest,
        "datasets.load_dataset('{folder}'); fill in the licence in {folder}/README.md before you publish it",
    ),
}


def refuse_unknown_format(name: str, known: Sequence[str]) -> None:
    """ConfigError if the name is not among the known ones."""
    if name not in known:
        raise ConfigError(f"no format {name}{did_you_mean(name, known)}; use one of {', '.join(known)}")

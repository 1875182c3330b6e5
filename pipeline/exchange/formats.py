"""The tables of the formats of pseudo-labels, and of the programs that train on a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import ConfigError
from pipeline.exchange import (
    coco,
    cvat,
    fiftyone,
    geotiff,
    huggingface,
    label_studio,
    labelme,
    ome_zarr,
    png,
    yolo,
)
from pipeline.exchange.images import SUFFIXES
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.exchange.training_sets import mmseg, nnunet, smp, ultralytics, unimatch
from pipeline.exchange.training_sets.contents import Entry, TrainingSet
from pipeline.settings import did_you_mean

VALUE_255 = f"the value {IGNORE_INDEX}"

Write = Callable[[Path, ExportedLabels, int, Label], Any]
"""Writes the files of one image. Arguments: folder, store, index in the store, label. It runs in several threads."""
WriteRest = Callable[[Path, ExportedLabels, Sequence[tuple[int, Any]], dict[str, Any]], None]
"""Writes the common files at the end. Arguments: folder, store, (index, result of `Write`) per image, provenance."""


WriteTrainingImage = Callable[[Path, TrainingSet, Entry, Label], None]
"""Writes the files of one image of a training set. Arguments: folder, data set, image, label."""
WriteTrainingRest = Callable[[Path, TrainingSet], None]
"""Writes the common files of a training set at the end."""


class Format(NamedTuple):
    """One format.

    next_step: instructions for the user; {folder} is replaced by the folder
    unlabeled: what a pixel without a label becomes
    read_back: the label that a reader finds in an export, from the exported one and the index of the background
    """

    write_image: Write
    write_rest: WriteRest
    next_step: str
    unlabeled: str
    read_back: Callable[[Label, int | None], Label] = lambda label, _: label


class Tool(NamedTuple):
    """One program that trains on human masks and pseudo-labels.

    title:          its name
    next_step:      instructions for the user; {folder} is replaced by the folder
    formats, modes: of the images that it reads as they are, see `ImageFiles`
    unlabeled:      what a pixel without a label becomes
    """

    title: str
    write_image: WriteTrainingImage
    write_rest: WriteTrainingRest
    next_step: str
    formats: tuple[str, ...] = tuple(SUFFIXES)
    modes: tuple[str, ...] = ("RGB", "L")
    unlabeled: str = VALUE_255


FORMATS = {
    "png": Format(
        png.write_image,
        png.write_rest,
        "value = class index, 255 = no label; names in {folder}/classes.txt",
        VALUE_255,
    ),
    "coco": Format(
        coco.write_image,
        coco.write_rest,
        "pycocotools.coco.COCO('{folder}/annotations.json')",
        "in no annotation",
    ),
    "ome-zarr": Format(
        ome_zarr.write_image,
        ome_zarr.write_rest,
        "napari --plugin napari-ome-zarr {folder}/ID.zarr (label layers start hidden)",
        "the value 0",
    ),
    "cvat": Format(
        cvat.write_image,
        cvat.write_rest,
        "in CVAT create a task with the labels of {folder}/labels.json (tab Raw) and the images of {folder}/images.txt "
        "and upload {folder}/annotations.zip as Segmentation mask 1.1; export the corrected task in the same format, "
        "then run conformalsam import-masks RUN task.zip",
        "the label `abstain`",
    ),
    "yolo": Format(
        yolo.write_image,
        yolo.write_rest,
        "yolo segment train data={folder}/data.yaml; for a data set that ignores pixels without a label: "
        "conformalsam export --for ultralytics",
        "background, because YOLO has no other pixels outside all outlines; do not read these outlines as masks",
        yolo.read_back,
    ),
    "labelme": Format(
        labelme.write_image,
        labelme.write_rest,
        "labelme {folder} --labels {folder}/labels.txt; then conformalsam import-masks RUN {folder}",
        "the label `__ignore__`",
    ),
    "label-studio": Format(
        label_studio.write_image,
        label_studio.write_rest,
        "import {folder}/tasks.json into a project with the interface {folder}/interface.xml, see {folder}/README.md",
        "the label `abstain`",
    ),
    "fiftyone": Format(
        fiftyone.write_image,
        fiftyone.write_rest,
        "python {folder}/load.py",
        "the value 0, which FiftyOne hides",
    ),
    "geotiff": Format(
        geotiff.write_image,
        geotiff.write_rest,
        "value = class index, 255 = no data; names in {folder}/classes.txt",
        VALUE_255,
    ),
    "huggingface": Format(
        huggingface.write_image,
        huggingface.write_rest,
        "datasets.load_dataset('{folder}'); {folder}/README.md states no licence: add it before you publish it",
        VALUE_255,
    ),
    "huggingface-masks": Format(
        huggingface.write_mask,
        huggingface.write_rest,
        "datasets.load_dataset('{folder}'); {folder}/README.md states no licence: add it before you publish it",
        VALUE_255,
    ),
}
TOOLS = {
    "mmseg": Tool(
        "MMSegmentation",
        mmseg.write_image,
        mmseg.write_rest,
        "mim train mmsegmentation {folder}/config.py; see {folder}/README.md",
    ),
    "smp": Tool(
        "segmentation-models-pytorch",
        smp.write_image,
        smp.write_rest,
        "python {folder}/train.py; see {folder}/README.md",
    ),
    "unimatch": Tool(
        "UniMatch",
        unimatch.write_image,
        unimatch.write_rest,
        "the commands are in {folder}/README.md",
    ),
    "nnunet": Tool(
        "nnU-Net v2",
        nnunet.write_image,
        nnunet.write_rest,
        "the commands are in {folder}/README.md",
        ("PNG",),
        ("RGB",),
    ),
    "ultralytics": Tool(
        "Ultralytics",
        ultralytics.write_image,
        ultralytics.write_rest,
        "yolo semantic train data={folder}/semantic.yaml model=yolo26n-sem.yaml; see {folder}/README.md",
        unlabeled=f"{VALUE_255} in the masks, background in the outlines of the segment task, which ignores no pixel",
    ),
}


def refuse_unknown_format(name: str, known: Sequence[str], kind: str = "format") -> None:
    """ConfigError if the name is not among the known ones."""
    if name not in known:
        raise ConfigError(f"no {kind} {name}{did_you_mean(name, known)}; use one of {', '.join(known)}")

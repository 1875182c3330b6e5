"""COCO's JSON: one run-length encoded shape per class and image, with a score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ExportedLabels, Label

FILE_NAME = "annotations.json"

Annotation = dict[str, Any]


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> list[Annotation]:
    """Annotations of the image at an index of the store, without ids. `write_rest` writes them."""
    return class_shapes(label, exported.probability(index))


def class_shapes(label: Label, probability: npt.NDArray[np.float32]) -> list[Annotation]:
    """One annotation per class of a label. It contains all pixels of the class, connected or not.

    label:       uint8 [H, W], 255 = abstain
    probability: float32 [H, W], probability of the label, NaN where it is unknown
    returns:     annotations; the score is the mean of the known probabilities, and is missing if there are none
    """
    from pycocotools import mask as shapes

    annotations = []
    for index in np.unique(label[label != IGNORE_INDEX]).tolist():
        is_class = label == index
        shape = shapes.encode(np.asfortranarray(is_class.astype(np.uint8)))
        known = probability[is_class & ~np.isnan(probability)]
        annotations.append(
            {
                "category_id": index + 1,
                "segmentation": {"size": shape["size"], "counts": shape["counts"].decode("ascii")},
                "area": int(shapes.area(shape)),
                "bbox": shapes.toBbox(shape).tolist(),
                "iscrowd": 0,
                **({"score": float(known.mean(dtype=np.float64))} if known.size else {}),
            }
        )
    return annotations


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write the JSON. Image ids are indices in the store plus 1, category ids are class indices plus 1."""
    images = [
        {"id": index + 1, "file_name": sample.image, "height": sample.height, "width": sample.width}
        for index, sample in ((index, exported.samples[index]) for index, _ in rows)
    ]
    with_image_id = [(index + 1, annotation) for index, annotations in rows for annotation in annotations]
    content = {
        "info": {
            "description": "Semantic pseudo-labels: one annotation for all pixels of a class in an image. Pixels in no "
            "annotation have no label. score: mean probability of the annotation's pixels.",
            "image_root": str(exported.index.root),
            **{name: facts[name] for name in ("fingerprint", "alpha", "rule", "variant")},
        },
        "images": images,
        "annotations": [
            {"id": number, "image_id": image_id, **annotation}
            for number, (image_id, annotation) in enumerate(with_image_id, start=1)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(exported.class_names, start=1)],
    }
    (folder / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")

"""COCO's JSON: one run-length encoded shape per class and image, with a score."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.incoming import Incoming, Size, class_named, refuse_size
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.files import normal
from pipeline.settings import DataSettings
from pipeline.sources.coco import CocoFile, Id, Image, find_coco, read_coco, refuse
from pipeline.sources.convert_masks.coco import category_classes, draw, warn_of_boxes, warn_of_empty

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


def read_masks(folder: Path, data: DataSettings) -> list[Incoming]:
    """Masks drawn from polygons and run-length encodings. Where shapes overlap, the smaller one is in front.

    Pixels in no shape are background if the run has a background class and the file has no category for it; otherwise
    they have no label. So have pixels in the box of an object without an outline. Crowds are drawn as their category,
    because annotation tools mark every run-length encoding as a crowd.

    raises: DatasetError for a file that is not valid COCO JSON
    """
    return [mask for path in find_coco(folder) for mask in _masks_of(path, data)]


def _masks_of(path: Path, data: DataSettings) -> Iterator[Incoming]:
    content = read_coco(path, data.max_pixels)
    warn_of_boxes(content)
    codes = category_classes(content.categories, path)
    for image in content.images:
        read = functools.partial(_drawn, image, content, codes, data)
        yield Incoming(normal(image.stem), f"{path}: {image.name}", read, content.has_outlines(image))


def _drawn(image: Image, content: CocoFile, codes: Mapping[Id, int], data: DataSettings, size: Size) -> Label:
    """Label of one image.

    codes: value of each category id in the mask of `draw`
    size:  height and width of the image file
    """
    where = f"{content.path}: {image.name}"
    refuse_size(where, (image.height, image.width), size)
    problems: list[str] = []
    empty: list[Id] = []
    annotations = [annotation._replace(is_crowd=False) for annotation in content.annotations.get(image.id, ())]
    mask = draw(image, annotations, codes, problems, empty)
    if len(empty) == sum(annotation.box is None for annotation in annotations) > 0:
        problems.append(f"no outline of image {image.name!r} covers a pixel: they are flat, tiny or outside it")
    refuse(content.path, problems)
    warn_of_empty(content.path, empty)
    names = {code: content.categories[category] for category, code in codes.items()}
    lookup = np.full(IGNORE_INDEX + 1, IGNORE_INDEX, np.uint8)
    if data.background is not None and data.background not in names.values():
        lookup[0] = data.class_names.index(data.background)
    for code in set(np.unique(mask).tolist()) - {0, IGNORE_INDEX}:
        lookup[code] = class_named(names[code], data.class_names, where)
    label: Label = lookup[mask]
    return label

"""COCO's JSON: one run-length encoded shape per class and image, with a score."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.exchange.incoming import Incoming, class_named
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.settings import DataSettings
from pipeline.sources.convert_masks.coco import category_classes, draw

FILE_NAME = "annotations.json"
KEYS = ("images", "annotations", "categories")

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


def find_files(folder: Path) -> list[Path]:
    """JSON files below a folder that contain COCO's annotations."""
    return [path for path in sorted(folder.rglob("*.json")) if all(key in _content(path) for key in KEYS)]


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON ({error}); export it again") from None
    return content if isinstance(content, dict) else {}


def read_masks(folder: Path, data: DataSettings) -> list[Incoming]:
    """Masks drawn from polygons and run-length encodings. Where shapes overlap, the smaller one is in front.

    Pixels in no shape are background if the run has a background class and the file has no category for it; otherwise
    they have no label. Crowds are drawn as their category, because annotation tools mark every run-length encoding as a
    crowd.

    raises: DatasetError for a file that is not valid COCO JSON
    """
    return [mask for path in find_files(folder) for mask in _masks_of(path, data)]


def _masks_of(path: Path, data: DataSettings) -> Iterator[Incoming]:
    content = _content(path)
    codes = category_classes(content["categories"], path)
    names = {codes[category["id"]]: category["name"] for category in content["categories"]}
    shapes: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        shapes[annotation["image_id"]].append({**annotation, "iscrowd": 0})
    for image in content["images"]:
        read = functools.partial(_drawn, image, shapes[image["id"]], codes, names, data, path)
        yield Incoming(Path(image["file_name"]).stem, f"{path}: {image['file_name']}", read)


def _drawn(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    codes: Mapping[int, int],
    names: Mapping[int, str],
    data: DataSettings,
    path: Path,
) -> Label:
    """Label of one image.

    codes: value of each category id in the mask of `draw`
    names: category name of each of these values
    """
    mask = draw(image, annotations, codes, path)
    lookup = np.full(IGNORE_INDEX + 1, IGNORE_INDEX, np.uint8)
    if data.background is not None and data.background not in names.values():
        lookup[0] = data.class_names.index(data.background)
    for code in set(np.unique(mask).tolist()) - {0}:
        lookup[code] = class_named(names[code], data.class_names, f"{path}: {image['file_name']}")
    label: Label = lookup[mask]
    return label

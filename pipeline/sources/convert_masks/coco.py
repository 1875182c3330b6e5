"""Converts COCO's instances to semantic masks: background is 0, the categories follow in the order of their ids."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.progress import Progress
from pipeline.sources.convert_masks.png import write_mask
from pipeline.sources.convert_masks.shapes import shape_mask

log = logging.getLogger(__name__)


def convert_coco(root: Path, workers: int | None = None) -> Path:
    """Write ROOT/masks/STEM.png for every image of ROOT/annotations/instances_*.json that has no mask yet.

    workers: threads; default: one per core
    returns: the folder of the masks
    raises:  DatasetError for a file that is missing or is no COCO JSON, and for a shape that cannot be drawn
    """
    files = sorted((root / "annotations").glob("instances_*.json"))
    if not files:
        raise DatasetError(f"no {root / 'annotations'}/instances_*.json; unpack annotations_trainval2017.zip in {root}")
    folder = root / "masks"
    folder.mkdir(exist_ok=True)
    image_of_stem: dict[str, str] = {}
    for path in files:
        convert_file(path, folder, image_of_stem, workers)
    return folder


def convert_file(path: Path, folder: Path, image_of_stem: dict[str, str], workers: int | None = None) -> None:
    """Write the missing masks of one annotation file.

    image_of_stem: file and image of each mask's stem, over all annotation files; extended here
    """
    log.info("reading %s", path)
    content = _read(path)
    _check_stems(content["images"], image_of_stem, path)
    classes = category_classes(content["categories"], path)
    shapes: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        shapes[annotation["image_id"]].append(annotation)
    todo = [image for image in content["images"] if not _mask_path(folder, image).is_file()]
    done = len(content["images"]) - len(todo)
    progress = Progress(log, f"convert-coco {path.stem}", len(content["images"]), "masks", done)

    def convert(image: Mapping[str, Any]) -> None:
        write_mask(_mask_path(folder, image), draw(image, shapes[image["id"]], classes, path))

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(convert, todo):
            progress.advance()


def _check_stems(images: Sequence[Mapping[str, Any]], image_of_stem: dict[str, str], path: Path) -> None:
    """Add the images to `image_of_stem`; DatasetError if two images would have the same mask file."""
    for image in images:
        name, stem = image["file_name"], Path(image["file_name"]).stem
        if image_of_stem.setdefault(stem, f"{path.name}: {name}") != f"{path.name}: {name}":
            raise DatasetError(
                f"{path}: the masks of {name} and of {image_of_stem[stem]} would have the same file name {stem}.png; "
                "rename one of the images"
            )


def _mask_path(folder: Path, image: Mapping[str, Any]) -> Path:
    return folder / f"{Path(image['file_name']).stem}.png"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON ({error}); unpack it again") from None
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise DatasetError(
            f"{path} has no {' and no '.join(missing)}, expected COCO's instances; unpack "
            "annotations_trainval2017.zip again"
        )
    return content


def category_classes(categories: Sequence[Mapping[str, Any]], path: Path) -> dict[int, int]:
    """Class index by category id. The ids have gaps (1 to 90 for 80 categories); the classes 1, 2, ... do not.

    raises: DatasetError for more than 254 categories
    """
    ids = sorted(category["id"] for category in categories)
    if len(ids) >= IGNORE_INDEX:
        raise DatasetError(
            f"{path} has {len(ids)} categories, but an 8-bit mask has only {IGNORE_INDEX - 1}; remove some categories"
        )
    return {category: index for index, category in enumerate(ids, start=1)}


def draw(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], classes: Mapping[int, int], path: Path
) -> npt.NDArray[np.uint8]:
    """Semantic mask of an image, uint8 [H, W]: class index, 0 = background, 255 in crowds.

    Where objects overlap, the smaller one is in front (a tie lies on a table). Objects are in front of crowds, whose
    outlines are coarse. So crowds are drawn first, then objects from large to small; objects of equal size by id.

    classes: class index by category id
    raises:  DatasetError for an annotation that cannot be drawn or has an unknown category
    """
    height, width = image["height"], image["width"]
    crowds, objects = [], []
    for annotation in annotations:
        try:
            shape = shape_mask(annotation.get("segmentation"), height, width)
        except ValueError as error:
            raise DatasetError(
                f"{path}: annotation {annotation['id']} cannot be drawn: {error}; correct or remove it"
            ) from None
        if annotation["category_id"] not in classes:
            raise DatasetError(
                f"{path}: annotation {annotation['id']} has category_id {annotation['category_id']}, which is not in "
                "categories; correct or remove it"
            )
        if annotation.get("iscrowd"):
            crowds.append(shape)
        else:
            objects.append((-int(shape.sum()), annotation["id"], shape, classes[annotation["category_id"]]))
    mask = np.zeros((height, width), np.uint8)
    for shape in crowds:
        mask[shape] = IGNORE_INDEX
    for *_, shape, class_index in sorted(objects, key=lambda entry: entry[:2]):
        mask[shape] = class_index
    return mask

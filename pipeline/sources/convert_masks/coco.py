"""Converts COCO's instances to semantic masks: background is 0, the categories follow in the order of their ids."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.files import remove_leftovers
from pipeline.progress import Progress
from pipeline.sources.coco import Annotation, CocoFile, Id, Image, id_order, read_coco, refuse, some
from pipeline.sources.convert_masks.drawing import Outline, draw
from pipeline.sources.convert_masks.png import write_mask
from pipeline.sources.convert_masks.shapes import Bools, box_mask, shape_mask

log = logging.getLogger(__name__)


def convert_coco(root: Path, workers: int | None = None, *, keep_unannotated: bool = False) -> Path:
    """Write ROOT/masks/STEM.png for the images of ROOT/annotations/instances_*.json that have no mask yet.

    workers:          threads; default: one per core
    keep_unannotated: whether images without any outline get a mask, all of background
    returns:          the folder of the masks
    raises:           DatasetError for a file that is missing or is no COCO JSON, and for shapes that cannot be drawn
    """
    files = sorted((root / "annotations").glob("instances_*.json"))
    if not files:
        raise DatasetError(f"no {root / 'annotations'}/instances_*.json; unpack annotations_trainval2017.zip in {root}")
    folder = root / "masks"
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file, expected the folder of the masks; rename it")
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    image_of_stem: dict[str, str] = {}
    for path in files:
        convert_file(path, folder, image_of_stem, workers, keep_unannotated)
    return folder


def convert_file(
    path: Path, folder: Path, image_of_stem: dict[str, str], workers: int | None, keep_unannotated: bool
) -> None:
    """Write the missing masks of one annotation file.

    image_of_stem: file and image of each mask's stem, over all annotation files; extended here
    """
    log.info("reading %s", path)
    content = read_coco(path)
    _check_stems(content.images, image_of_stem, path)
    classes = category_classes(content.categories, path)
    images = [image for image in content.images if keep_unannotated or content.has_outlines(image)]
    warn_of_boxes(content)
    missing = [image for image in images if not _mask_path(folder, image).is_file()]
    progress = Progress(log, f"convert-coco {path.stem}", len(images), "masks", len(images) - len(missing))
    problems: list[str] = []
    empty: list[str] = []

    def convert(image: Image) -> None:
        outlines = outlines_of(content.annotations.get(image.id, ()), classes)
        drawing = draw(outlines, image.height, image.width)
        problems.extend(f"image {image.name!r}: {problem}" for problem in drawing.problems)
        empty.extend(drawing.empty)
        if not drawing.problems:
            write_mask(_mask_path(folder, image), drawing.mask)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(convert, missing):
            progress.advance()
    refuse(path, sorted(problems))
    warn_of_empty(path, empty)
    if not keep_unannotated and len(images) < len(content.images):
        left_out = [image.name for image in content.images if not content.has_outlines(image)]
        log.warning(
            "%s: %d of %d images have no annotation with an outline and got no mask, e.g. %s; if they show only "
            "background, as in the official files, add --unannotated background",
            *(path, len(left_out), len(content.images), left_out[0]),
        )


def warn_of_boxes(content: CocoFile) -> None:
    """Log how many annotations have a box but no outline, if there are any."""
    boxes = content.boxes_only()
    if boxes:
        log.warning(
            "%s: %d annotations have a box but no outline: %s; the pixels in their boxes get no label, except those of "
            "other objects; add outlines, or remove the annotations",
            *(content.path, len(boxes), some(boxes)),
        )


def warn_of_empty(path: Path, empty: Sequence[str]) -> None:
    """Log how many outlines cover no pixel, if there are any."""
    if empty:
        log.warning(
            "%s: %d outlines cover no pixel, because they are flat, tiny or outside their image: %s",
            *(path, len(empty), some(sorted(empty))),
        )


def _check_stems(images: Sequence[Image], image_of_stem: dict[str, str], path: Path) -> None:
    """Add the images to `image_of_stem`; DatasetError if two images would have the same mask file."""
    for image in images:
        name, stem = image.name, image.stem
        if image_of_stem.setdefault(stem, f"{path.name}: {name}") != f"{path.name}: {name}":
            raise DatasetError(
                f"{path}: the masks of {name} and of {image_of_stem[stem]} would have the same file name {stem}.png; "
                "rename one of the images"
            )


def _mask_path(folder: Path, image: Image) -> Path:
    return folder / f"{image.stem}.png"


def category_classes(categories: Iterable[Id], path: Path) -> dict[Id, int]:
    """Class index by category id. The ids have gaps (1 to 90 for 80 categories); the classes 1, 2, ... do not.

    raises: DatasetError for more than 254 categories
    """
    ids = sorted(categories, key=id_order)
    if len(ids) >= IGNORE_INDEX:
        raise DatasetError(
            f"{path} has {len(ids)} categories, but an 8-bit mask has only {IGNORE_INDEX - 1}; remove some categories"
        )
    return {category: index for index, category in enumerate(ids, start=1)}


def outlines_of(annotations: Sequence[Annotation], classes: Mapping[Id, int]) -> list[Outline]:
    """The outlines of an image, in the order of their ids. Crowds and boxes without an outline are coarse.

    classes: class index by category id
    """
    return [
        Outline(
            f"annotation {annotation.id!r}",
            classes[annotation.category],
            functools.partial(annotation_mask, annotation),
            is_coarse=annotation.is_crowd or annotation.box is not None,
        )
        for annotation in sorted(annotations, key=lambda a: id_order(a.id))
    ]


def annotation_mask(annotation: Annotation, height: int, width: int) -> Bools:
    """Pixels of an annotation, bool [H, W]; those of its box if it has no outline. Raises as `shape_mask`."""
    if annotation.box is not None:
        return box_mask(annotation.box, height, width)
    return shape_mask(annotation.segmentation, height, width)

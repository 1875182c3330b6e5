"""COCO's JSON, as CVAT, Label Studio, Roboflow, Labelbox, VIA and others write it, under any name."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations, Drawn, Size, drawn, refuse_size
from pipeline.sources.coco import CocoFile, Id, Image, find_coco, id_order, read_coco, some
from pipeline.sources.convert_masks.coco import category_classes, outlines_of


def is_here(source: Path) -> bool:
    """Whether the source is a JSON, or a folder in which one has COCO's lists."""
    return source.suffix.lower() == ".json" if source.is_file() else any(find_coco(source))


def read(source: Path, max_pixels: int) -> Annotations:
    """Masks drawn from polygons and run-length encodings.

    Pixels in the box of an object without an outline are void. Crowds are drawn as their category, because annotation
    tools mark every run-length encoding as a crowd. Categories of one name are one.

    source:     a JSON, or a folder with some
    max_pixels: largest height times width of an image
    raises:     DatasetError for a file that is not valid COCO JSON
    """
    files = [read_coco(path, max_pixels) for path in find_coco(source)]
    images = [image for content in files for image in _images_of(content)]
    names = {content.categories[key]: None for content in files for key in sorted(_labels_of(content), key=id_order)}
    return Annotations(list(names), images, [remark for content in files for remark in _remarks(content)])


def _labels_of(content: CocoFile) -> set[Id]:
    """The categories that are labels: not those that only group others and have no annotation, as Roboflow writes."""
    used = {annotation.category for annotations in content.annotations.values() for annotation in annotations}
    return {key for key, name in content.categories.items() if key in used or name not in content.groups}


def _images_of(content: CocoFile) -> Iterator[AnnotatedImage]:
    codes = category_classes(content.categories, content.path)
    names = [content.categories[key] for key in codes]
    for image in content.images:
        draw = functools.partial(_drawn, image, content, codes)
        yield AnnotatedImage(image.name, f"{content.path}: {image.name}", names, draw, content.has_outlines(image))


def _drawn(image: Image, content: CocoFile, codes: Mapping[Id, int], size: Size) -> Drawn:
    where = f"{content.path}: {image.name}"
    refuse_size(where, (image.height, image.width), size)
    annotations = [annotation._replace(is_crowd=False) for annotation in content.annotations.get(image.id, ())]
    return drawn(outlines_of(annotations, codes), size, where)


def _remarks(content: CocoFile) -> Iterator[str]:
    boxes = content.boxes_only()
    if boxes:
        yield (
            f"{content.path}: {len(boxes)} annotations have a box but no outline: {some(boxes)}; the pixels in their "
            "boxes get no label, except those of other objects; add outlines, or remove the annotations"
        )
    groups = [content.categories[key] for key in sorted(content.categories.keys() - _labels_of(content), key=id_order)]
    if groups:
        yield f"{content.path}: the categories {some(groups)} only group others, and are no classes"
    num_crowds = sum(a.is_crowd for annotations in content.annotations.values() for a in annotations)
    if num_crowds:
        yield f"{content.path}: {num_crowds} crowds (iscrowd: 1) are drawn as objects of their categories"

"""Masks to be imported from other tools: which image each belongs to, and the classes of the run in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import ConfigError, DatasetError
from pipeline.exchange import index_masks, png
from pipeline.exchange.labels import Label
from pipeline.files import files_in
from pipeline.settings import DataSettings, did_you_mean
from pipeline.sources.annotations import READERS, AnnotatedImage, Annotations, Size, colour_masks, detect
from pipeline.sources.annotations.annotated import VOID_NAMES, refuse_lost
from pipeline.sources.annotations.pictures import called_as_images

log = logging.getLogger(__name__)

PNG, MASKS = "png", "masks"  # pictures as in an export, and as those of the run
READABLE = (PNG, MASKS, *READERS)
UNANNOTATED = "background"  # CVAT's name of pixels that are not annotated


class Incoming(NamedTuple):
    """One mask to be imported.

    id:           id of its image
    where:        file (and entry) for messages
    read:         reads the label, uint8 [H, W], if it has the size of its image, or raises DatasetError
    is_annotated: False if the file lists the image, but nothing was drawn in it
    """

    id: str
    where: str
    read: Callable[[Size], Label]
    is_annotated: bool = True


def incoming_masks(
    folder: Path,
    source: Path,
    format_name: str | None,
    data: DataSettings,
    images: Mapping[str, Path],
    colours: Path | None = None,
) -> list[Incoming]:
    """The masks in an annotation file or a folder. Their pixels are not read yet.

    folder:  the file, or the folder that it was unpacked into
    source:  as the user named it
    images:  files of the images of the run, by id
    colours: table of the colours of the masks, as for `init`
    raises:  DatasetError if there are none; ConfigError for a table with annotations of a tool
    """
    if colours is not None and format_name is not None:
        raise ConfigError(f"--colours is for masks that are pictures, but --from is {format_name}; remove one of them")
    annotations = annotations_in(folder, format_name, data, images, colours)
    if annotations is None or not annotations.images:
        what = f"masks of format {format_name}" if format_name is not None else f"masks ({', '.join(READABLE)})"
        raise DatasetError(
            f"{source} contains no {what}; export the corrected masks again, or set their format with --from"
        )
    if data.background is not None and data.background not in annotations.names:
        refuse_lost(annotations, source)
    for remark in annotations.remarks:
        log.warning("%s", remark.replace(str(folder), str(source)))
    return [incoming(image, data, images) for image in annotations.images]


def annotations_in(
    folder: Path, format_name: str | None, data: DataSettings, images: Mapping[str, Path], colours: Path | None
) -> Annotations | None:
    """The annotations of a format, by default of the one that is found; None if there is none."""
    name = format_name or (detect(folder) if colours is None else None)
    if name in READERS:
        return READERS[name].read(folder, data.max_pixels)
    if name is None and not files_in(folder, colour_masks.SUFFIXES, data.subfolders):
        return None
    return called_as_images(pictures_in(folder, name, data, colours), images, data.mask_ending)


def pictures_in(folder: Path, name: str | None, data: DataSettings, colours: Path | None) -> Annotations:
    """Masks that are pictures: by a table of colours, as in an export, as the masks of the run, or in the colours that
    `init` took as classes.

    name:   PNG or MASKS; default: by their colours or values
    raises: DatasetError for masks whose colours or values say nothing, or more than one thing
    """
    below = data.subfolders
    if colours is not None:
        return colour_masks.read(folder, colours, below, data.max_pixels)
    if name == MASKS:
        return index_masks.read_as_masks_of_run(folder, data)
    if (folder / png.CLASSES).is_file():
        return png.read(folder, data)
    if not colour_masks.are_here(folder, below):
        return png.read(folder, data) if name == PNG else index_masks.read(folder, data)
    named = colour_masks.proposed(folder, below, data.max_pixels)
    if {name for name, _ in named} <= set(data.class_names):
        return replace(colour_masks.read(folder, None, below, data.max_pixels), remarks=())
    if {colour for _, colour in named} <= set(map(tuple, png.colours_of(data.num_classes, data.background_index))):
        return png.read(folder, data)
    lines = "\n".join(colour_masks.table_lines(named))
    raise DatasetError(
        f"{folder} has masks in colours that stand for no class of the run ({', '.join(data.class_names)}); write "
        f"these lines with names of classes, or void, in a file, and add --colours FILE:\n{lines}"
    )


def incoming(image: AnnotatedImage, data: DataSettings, ids: Container[str]) -> Incoming:
    def read(size: Size) -> Label:
        drawn = image.draw(size)
        if drawn.num_covered:
            log.info(
                "%s: %d pixels are in outlines of several labels: they belong to the smallest one",
                *(image.where, drawn.num_covered),
            )
        num_void = int((drawn.mask == IGNORE_INDEX).sum())
        if num_void:
            why = "between two colours of a JPEG, or in boxes without an outline"
            log.info("%s: %d pixels are void: %s", image.where, num_void, why)
        return label_of(drawn.mask, image.names, data, image.where)

    return Incoming(image.id_among(ids), image.where, read, image.is_annotated)


def label_of(mask: npt.NDArray[np.uint8], names: Sequence[str], data: DataSettings, where: str) -> Label:
    """Label of a mask as `Drawn` describes it.

    Pixels in which nothing was drawn are background if the run has a background class and the file has no label of
    its name; otherwise they have no label.

    raises: DatasetError for pixels of a label that is no class of the run
    """
    lookup = np.full(IGNORE_INDEX + 1, IGNORE_INDEX, np.uint8)
    if data.background is not None and data.background not in names:
        lookup[0] = data.class_names.index(data.background)
    for code in set(np.unique(mask).tolist()) - {0, IGNORE_INDEX}:
        lookup[code] = class_named(names[code - 1], data.class_names, where)
    label: Label = lookup[mask]
    return label


def class_named(name: str, class_names: Sequence[str], where: str) -> int:
    """Index of the class with this name; 255 for `background` and VOID_NAMES such as `abstain` without such a class.

    raises: DatasetError for any other name
    """
    if name in class_names:
        return class_names.index(name)
    if name == UNANNOTATED or name.lower() in VOID_NAMES:
        return IGNORE_INDEX
    hint = did_you_mean(name, class_names)
    raise DatasetError(
        f"{where} has pixels of {name!r}, which is no class of the run{hint}; use only classes of the run"
    )

"""Writes the masks of annotated images as index masks, one PNG for each image: value k is the k-th name, from 1 on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import DatasetError
from pipeline.images import PHOTOGRAPH, read_header
from pipeline.progress import Progress
from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations
from pipeline.sources.convert_masks.png import write_mask

log = logging.getLogger(__name__)


@dataclass
class Conversion:
    """What was converted, and what was left out.

    num_masks:     number of index masks
    num_pixels:    number of pixels by mask value
    num_covered:   number of pixels in outlines of several names
    unannotated:   file names of the images that the annotations list, but in which nothing is drawn
    without_image: file names of the annotated images that do not exist
    """

    num_masks: int = 0
    num_pixels: dict[int, int] = field(default_factory=dict)
    num_covered: int = 0
    unannotated: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)

    def fraction(self, value: int) -> float:
        """Fraction of all pixels that have a value; 0 without pixels."""
        return self.num_pixels.get(value, 0) / max(1, self.num_all)

    @property
    def num_all(self) -> int:
        """Number of all pixels."""
        return sum(self.num_pixels.values())


def convert(annotations: Annotations, images: Mapping[str, Path], folder: Path, keep_unannotated: bool) -> Conversion:
    """Write FOLDER/ID.png for the annotated images.

    images:           file of each image by id
    keep_unannotated: whether images in which nothing is drawn get a mask too, all 0
    raises:           DatasetError with every problem of the masks, and for more names than an 8-bit mask has values
    """
    if len(annotations.names) >= IGNORE_INDEX:
        raise DatasetError(
            f"the annotations have {len(annotations.names)} labels, but an 8-bit mask has only {IGNORE_INDEX - 1}; "
            "merge or remove some labels in the annotation tool"
        )
    done = Conversion()
    chosen: dict[str, AnnotatedImage] = {}
    problems = []
    for image in annotations.images:
        sample_id = image.id_among(images)
        if not (image.is_annotated or keep_unannotated):
            done.unannotated.append(image.file_name)
        elif sample_id not in images:
            done.without_image.append(image.file_name)
        elif sample_id in chosen:
            problems.append(
                f"{image.where} and {chosen[sample_id].where} annotate the same image {sample_id}; remove one of them"
            )
        else:
            chosen[sample_id] = image
    problems += _write_all(chosen, images, annotations.names, folder, done)
    if problems:
        raise DatasetError(
            "\n  ".join([f"{len(problems)} of {len(chosen)} annotated images cannot be used:", *problems])
        )
    return done


def _write_all(
    chosen: Mapping[str, AnnotatedImage],
    images: Mapping[str, Path],
    names: Sequence[str],
    folder: Path,
    done: Conversion,
) -> list[str]:
    """Write the masks, and count their pixels in `done`; returns a message for each mask that cannot be drawn."""
    value_of = {name: value for value, name in enumerate(names, start=1)}
    progress = Progress(log, "convert", len(chosen), "masks")

    def write(sample_id: str) -> tuple[npt.NDArray[np.int64], int] | str:
        image = chosen[sample_id]
        lookup = np.arange(IGNORE_INDEX + 1, dtype=np.uint8)
        lookup[1 : len(image.names) + 1] = [value_of.get(name, 0) for name in image.names]
        try:
            drawn = image.draw(read_header(images[sample_id], PHOTOGRAPH).size)
        except DatasetError as error:
            return str(error)
        mask = lookup[drawn.mask]
        write_mask(folder / f"{sample_id}.png", mask)
        return np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1), drawn.num_covered

    problems = []
    total = np.zeros(IGNORE_INDEX + 1, np.int64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(write, chosen):
            progress.advance()
            if isinstance(result, str):
                problems.append(result)
                continue
            total += result[0]
            done.num_covered += result[1]
            done.num_masks += 1
    done.num_pixels = {int(value): int(total[value]) for value in np.flatnonzero(total)}
    return problems

"""The maps of some labeled images, compared with their masks before anything is stored: refuses a wrong class map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.annotators.agreement import MIN_IMAGES, Counts, Doubt, confusion, doubts, num_needed, shown_classes
from pipeline.annotators.contract import Annotator, Maps, checked_maps, classes_without_prompt
from pipeline.datasets import (
    IGNORE_INDEX,
    Sample,
    SampleIndex,
    evenly_spaced,
    image_to_grid,
    num_groups,
    resize_nearest,
    units_of,
)
from pipeline.errors import AnnotatorError, DatasetError
from pipeline.run import Run
from pipeline.settings import DataSettings, Settings

MOST_IMAGES = 64  # that are annotated for the check
MOST_MASKS = 512  # that are read to choose them
MOST_TEXTS = 3  # of an error; the others are counted
SOURCES = {
    "seem": "the prompts of data.classes",
    "transformers": "annotate.transformers.class_map and the prompts of data.classes",
    "onnx": "annotate.onnx.class_map",
    "maps": "the order of the channels of the files in annotate.maps.folder",
    "student": "data.classes and data.grid of the run in annotate.student.run",
    "python": "the order of its maps",
}

Mask = npt.NDArray[np.uint8]


class Labeled(NamedTuple):
    """A labeled image to check, and its mask, uint8 [H, W] on the grid, IGNORE_INDEX = void."""

    sample: Sample
    mask: Mask


def choose_labeled(
    samples: Sequence[Sample], mask_of: Callable[[Sample], Mask], annotator: Annotator, data: DataSettings
) -> list[Labeled]:
    """Labeled images that show every class often enough for the check: the first, then those with a missing class.

    Classes without a prompt or channel do not count. Masks that cannot be read are left out.

    samples: labeled ones
    mask_of: mask of a sample, uint8 [h, w], IGNORE_INDEX = void
    """
    checked = [k for k, name in enumerate(data.class_names) if name not in classes_without_prompt(annotator)]
    missing = np.zeros(data.num_classes, np.int64)
    missing[checked] = num_needed(len(checked))
    chosen: list[Labeled] = []
    for sample in evenly_spaced(samples, MOST_MASKS):
        if len(chosen) == MOST_IMAGES or (len(chosen) >= MIN_IMAGES and (missing <= 0).all()):
            break
        try:
            mask = resize_nearest(mask_of(sample), data.grid)
        except DatasetError:  # `calibrate` refuses a mask that has changed, and the doctor reports one it cannot read
            continue
        shown = shown_classes(np.bincount(mask[mask != IGNORE_INDEX], minlength=data.num_classes))
        if len(chosen) < MIN_IMAGES or (missing[shown] > 0).any():
            missing[shown] -= 1
            chosen.append(Labeled(sample, mask))
    return chosen


def class_doubts(
    chosen: Sequence[Labeled],
    maps_of: Callable[[Sample], npt.NDArray[Any] | None],
    annotator: Annotator,
    data: DataSettings,
) -> list[Doubt]:
    """Signs that the classes of the maps are not those of the masks, errors first.

    maps_of: maps of a sample, [K, h, w]; None for an image that has none
    """
    counts: list[Counts] = []
    samples: list[Sample] = []
    for one in chosen:
        maps = maps_of(one.sample)
        if maps is not None:
            counts.append(confusion(one.mask, maps))
            samples.append(one.sample)
    if not counts:
        return []
    # A group counts as one image: the tests are about independent ones.
    of_units = calib.sums_of_units(np.stack(counts), units_of(samples))
    noun = "image" if num_groups(samples) is None else "group"
    return doubts(of_units, data.class_names, classes_without_prompt(annotator), noun)


def live_maps(index: SampleIndex, annotator: Annotator, data: DataSettings) -> Callable[[Sample], Maps | None]:
    """Function from a sample to its maps, float32 [K, h, w]; None if the image cannot be read or annotated."""

    def maps_of(sample: Sample) -> Maps | None:
        try:
            image = image_to_grid(index.image(sample), data.grid)
            maps = checked_maps(annotator, image[None], [sample.id], data.num_classes)
        except Exception:  # the file may be unreadable, and an annotator may raise anything; both are reported later
            return None
        of_image: Maps = maps[0]
        return of_image

    return maps_of


def refuse_wrong_classes(found: Sequence[Doubt], annotator: Annotator, settings: Settings) -> None:
    """AnnotatorError if there is a certain sign of a wrong class map, and `annotate.class_check` is not warn."""
    certain = [doubt.text for doubt in found if doubt.level == "error"]
    if not certain or settings.annotate.class_check == "warn":
        return
    more = f", and {len(certain) - MOST_TEXTS} more" if len(certain) > MOST_TEXTS else ""
    raise AnnotatorError(
        f"the maps of annotator {annotator.name} contradict the masks, as with a wrong order of the classes: "
        f"{', '.join(certain[:MOST_TEXTS])}{more}; correct {SOURCES.get(settings.annotate.annotator, 'its classes')} "
        "or the values of data.classes, or, if the annotator is that weak, run "
        f"{Run(settings).command('annotate', **{'annotate.class_check': 'warn'})}"
    )

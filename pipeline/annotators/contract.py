"""The contract of an annotator, which computes K maps from an image and K class prompts."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import AnnotatorError, UserError, first_line
from pipeline.settings import AnnotateSettings

Images = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]
Space = Literal["logits", "probability"]


class Annotator(Protocol):
    """The contract.

    name:        its name in receipts and reports
    fingerprint: changes whenever the same image and prompts could give other maps (weights, preprocessing)
    space:       values of the maps: `logits` (softmax over classes gives P) or `probability` (in [0, 1])

    It may also have `without_prompt`, the names of the classes that it has no prompt or channel for, whose maps are 0,
    and `runs_on`, the names of the devices or libraries that compute its maps, for the receipt.

    An annotator whose maps depend on which image it is, such as one that reads files, also has `prepare_images(ids)`.
    It is called once after `prepare`, with the ids of all images, and raises AnnotatorError if it cannot annotate them;
    `fingerprint` is read after it. Its `__call__` takes the ids of the images, B strings, as a second argument. If it
    also has `image_fingerprint(id)`, text that changes whenever the maps of that image alone could change, only those
    images are annotated again whose fingerprints have changed.

    An annotator that computes the features of an image once for several lists of class prompts also has
    `prepare_lists(lists)`, which takes the place of `prepare`; the maps are then those of each list, one after the
    other. Only `conformalsam prompts` calls it, which otherwise calls `prepare` for each list.

    Checked before the run: the five members exist, name and fingerprint are text, space is one of the two, `prepare`
    raises nothing. Of every call: `check_maps`; the maps of all images have one size, unless they are resized to the
    grid. Of the first image: `first_maps`. Of labeled images: the argmax agrees with the masks, `class_doubts`.
    Not checked: that the fingerprint changes, and that the maps of an image are the same in every batch.
    """

    name: str
    fingerprint: str
    space: Space

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Prepare for K classes, in the order of the K maps. Each class has one prompt, or several aliases."""

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in `space`, at the annotator's own resolution."""


NUM_AXES = 4  # of maps: image, class, row, column
AUTO_DTYPE = {"logits": "float16", "probability": "uint16"}


def checked_maps(annotator: Annotator, images: Images, ids: Sequence[str], num_classes: int) -> Maps:
    """Checked maps of images, float32 [B, K, h, w]. AnnotatorError as `check_maps`; an annotator may raise anything.

    images: uint8 [B, H, W, 3] RGB
    ids:    of the B images
    """
    arguments = (images, ids) if hasattr(annotator, "prepare_images") else (images,)
    return check_maps(annotator(*arguments), len(images), num_classes, annotator)


def stored_dtype(annotator: Annotator, settings: AnnotateSettings) -> str:
    """Dtype of the maps in the probability store: "float16", "float32" or "uint16" (fixed point, for [0, 1]).

    raises: AnnotatorError for uint16 and an annotator that returns logits
    """
    dtype = AUTO_DTYPE[annotator.space] if settings.dtype == "auto" else settings.dtype
    if dtype == "uint16" and annotator.space == "logits":
        raise AnnotatorError(
            f"annotate.dtype is uint16, which stores values in [0, 1], but {annotator.name} returns logits; set "
            "annotate.dtype to float16 or float32"
        )
    return dtype


def classes_without_prompt(annotator: Annotator) -> list[str]:
    """Names of the classes that an annotator has no prompt or channel for."""
    return list(getattr(annotator, "without_prompt", ()))


def other_labels(names: Sequence[str]) -> str:
    """Text for the log, the doctor and the report about classes without a prompt or channel."""
    one = len(names) == 1
    return (
        f"no prompt or channel means {', '.join(names)}, so {'its' if one else 'their'} map"
        f"{' is' if one else 's are'} 0 and {'its' if one else 'their'} pixels carry other labels"
    )


def reason_of(error: Exception) -> str:
    """Type, text, and the line of code of an error that an annotator raised; the text alone of an error for users."""
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


def check_maps(maps: Any, num_images: int, num_classes: int, annotator: Annotator) -> Maps:
    """Check the maps of one call against the contract, and return them.

    maps:    what the annotator returned, expected float [num_images, num_classes, h, w]
    returns: the same array
    raises:  AnnotatorError for anything but an array of floats of that shape, NaN or infinite values (in
             float32), or probabilities outside [0, 1]
    """
    if not isinstance(maps, np.ndarray) or not np.issubdtype(maps.dtype, np.floating):
        found = f"an array of {maps.dtype}" if isinstance(maps, np.ndarray) else f"{type(maps).__name__}"
        raise AnnotatorError(
            f"annotator {annotator.name} returned {found}, expected a numpy array of float32; fix its __call__"
        )
    if maps.ndim != NUM_AXES or maps.shape[:2] != (num_images, num_classes) or not maps.size:
        expected = f"[{num_images}, {num_classes}, h, w]"
        raise AnnotatorError(
            f"annotator {annotator.name} returned shape {maps.shape}, expected {expected}; fix its __call__"
        )
    with np.errstate(over="ignore"):  # float64 may be infinite in float32
        is_finite = np.isfinite(maps.astype(np.float32, copy=False)).all()
    if not is_finite:
        raise AnnotatorError(f"annotator {annotator.name} returned NaN or infinite values; fix its __call__")
    if annotator.space == "probability" and (maps.min() < 0 or maps.max() > 1):
        value_range = f"{maps.min():.3g} to {maps.max():.3g}"
        raise AnnotatorError(
            f"annotator {annotator.name} returned values from {value_range}, expected probabilities in [0, 1]; fix its "
            "__call__"
        )
    checked: Maps = maps
    return checked

"""The contract of an annotator: what turns images and K class prompts into K maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import AnnotatorError
from pipeline.settings import AnnotateSettings

Images = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]
Space = Literal["logits", "probability"]


class Annotator(Protocol):
    """The contract.

    name:        what receipts and reports call it
    fingerprint: changes whenever the same image and prompts could give other maps (weights, preprocessing)
    space:       what the maps are: `logits` (softmax over classes gives P) or `probability` (in [0, 1])
    """

    name: str
    fingerprint: str
    space: Space

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Get ready for K classes, each given by one prompt or several aliases, in the order of the K maps."""

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in `space`, at the annotator's own resolution."""


AUTO_DTYPE = {"logits": "float16", "probability": "uint16"}


def stored_dtype(annotator: Annotator, settings: AnnotateSettings) -> str:
    """What the cache stores of its maps; AnnotatorError for fixed point numbers, which cannot hold logits."""
    dtype = AUTO_DTYPE[annotator.space] if settings.dtype == "auto" else settings.dtype
    if dtype == "uint16" and annotator.space == "logits":
        raise AnnotatorError(f"annotate.dtype is uint16, but {annotator.name} gives logits; use float16 or float32")
    return dtype


def check_maps(maps: Any, num_images: int, num_classes: int, annotator: Annotator) -> Maps:
    """The maps of one call, if they keep the contract; AnnotatorError otherwise."""
    shape = getattr(maps, "shape", None)
    if shape is None or len(shape) != 4 or shape[:2] != (num_images, num_classes):
        expected = f"[{num_images}, {num_classes}, h, w]"
        raise AnnotatorError(
            f"annotator {annotator.name} returned shape {shape}, expected {expected}; fix its __call__"
        )
    if not np.isfinite(maps).all():
        raise AnnotatorError(f"annotator {annotator.name} returned NaN or infinite values; fix its __call__")
    if annotator.space == "probability" and (maps.min() < 0 or maps.max() > 1):
        found = f"{maps.min():.3g} to {maps.max():.3g}"
        raise AnnotatorError(f"annotator {annotator.name} returned values from {found}; probabilities lie in [0, 1]")
    checked: Maps = maps
    return checked

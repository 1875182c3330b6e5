"""Annotators: what turns an image and K class prompts into K maps. The contract, and which adapter keeps it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import AnnotateSettings, PythonSettings, Settings
from pipeline.errors import AnnotatorError

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


def build_annotator(settings: Settings) -> Annotator:
    """The annotator that the settings choose, prepared for the classes; AnnotatorError if it cannot be loaded."""
    annotator = _load(settings)
    annotator.prepare(settings.data.class_prompts)
    return annotator


def _load(settings: Settings) -> Annotator:
    """Only the chosen adapter is imported, and with it its engine."""
    chosen = settings.annotate
    if chosen.seem is not None and chosen.annotator == "seem":
        from pipeline.seem_annotator import SeemAnnotator

        return SeemAnnotator(chosen.seem, settings.data, Path(settings.results) / "text_embeddings")
    if chosen.onnx is not None and chosen.annotator == "onnx":
        from pipeline.onnx_annotator import OnnxAnnotator

        return OnnxAnnotator(chosen.onnx, settings.data)
    if chosen.python is not None and chosen.annotator == "python":
        return load_factory(chosen.python)
    raise AnnotatorError(
        "annotate.annotator is none, so there is nobody to ask; choose one in the section annotate, or train without: "
        "snakemake --cores 8 all --config preset=label-only"
    )


def load_factory(settings: PythonSettings) -> Annotator:
    """Call the user's factory and check that what it returns keeps the contract."""
    module_name, _, name = settings.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise AnnotatorError(f"annotate.python.factory {settings.factory} cannot be loaded: {error}") from None
    annotator: Annotator = factory(**settings.arguments)
    missing = [a for a in ("name", "fingerprint", "space", "prepare", "__call__") if not hasattr(annotator, a)]
    if missing:
        raise AnnotatorError(
            f"{settings.factory} returned {type(annotator).__name__}, which lacks {', '.join(missing)}"
        )
    return annotator


def check_maps(maps: Any, num_images: int, num_classes: int, annotator: Annotator) -> Maps:
    """The maps of one call, if they keep the contract; AnnotatorError otherwise."""
    shape = getattr(maps, "shape", None)
    if shape is None or len(shape) != 4 or shape[:2] != (num_images, num_classes):
        expected = f"[{num_images}, {num_classes}, h, w]"
        raise AnnotatorError(
            f"annotator {annotator.name} returned shape {shape}, expected {expected}; mend its __call__"
        )
    if not np.isfinite(maps).all():
        raise AnnotatorError(f"annotator {annotator.name} returned NaN or infinite values; mend its __call__")
    if annotator.space == "probability" and (maps.min() < 0 or maps.max() > 1):
        found = f"{maps.min():.3g} to {maps.max():.3g}"
        raise AnnotatorError(f"annotator {annotator.name} returned values from {found}; probabilities lie in [0, 1]")
    checked: Maps = maps
    return checked

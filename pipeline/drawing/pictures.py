"""Pictures of labels and scores on top of photographs. Pixels without a label are hatched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets import IGNORE_INDEX, class_index, resize_nearest
from pipeline.palette import SCALE_STEPS, Colours, scale_colours

Picture = npt.NDArray[np.uint8]

OPACITY = 0.65
HATCH_PERIOD = 7  # pixels from one stripe to the next
HATCH_WIDTH = 2
STRIPE = 235
DIMMED = 0.45


def paint_classes(image: Picture, label: npt.NDArray[np.generic], colours: Colours) -> Picture:
    """Blend the colours of the classes into an image; hatch the pixels without a class.

    image:   uint8 [H, W, 3] RGB
    label:   [H, W], class index; NaN (abstain) or IGNORE_INDEX = no class
    colours: uint8 [K, 3]
    returns: uint8 [H, W, 3]
    """
    index = class_index(label)
    has_class = index != IGNORE_INDEX
    return _blend(image, colours[np.where(has_class, index, 0)], has_class)


def paint_values(image: Picture, values: npt.NDArray[np.floating], low: float, high: float) -> Picture:
    """Blend values into an image, by colour; hatch NaN and infinite values.

    image:     uint8 [H, W, 3] RGB
    values:    float [H, W]
    low, high: values at the dark and the light end of the colour scale
    returns:   uint8 [H, W, 3]
    """
    return _blend(image, *_scaled(values, low, high))


def value_map(values: npt.NDArray[np.floating], low: float, high: float) -> Picture:
    """uint8 [H, W, 3] of values, float [H, W], as in `paint_values`, without an image behind them."""
    colours, is_finite = _scaled(values, low, high)
    return np.where(is_finite[..., None], colours, hatch(np.full((*values.shape, 3), 120, np.uint8)))


def hatch(image: Picture) -> Picture:
    """uint8 [H, W, 3] of an image, uint8 [H, W, 3]: dim grey with light diagonal stripes."""
    height, width = image.shape[:2]
    diagonal = np.arange(height)[:, None] + np.arange(width)[None, :]
    dim = np.rint(DIMMED * image.mean(axis=2)).astype(np.uint8)
    striped = np.where(diagonal % HATCH_PERIOD < HATCH_WIDTH, np.uint8(STRIPE), dim)
    return np.repeat(striped[..., None], 3, axis=2)


def shrink(image: Picture, longest: int) -> Picture:
    """uint8 [h, w, 3] of an image, uint8 [H, W, 3], reduced until its longer side is at most `longest` pixels."""
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return image if factor == 1 else np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def fit_label(label: npt.NDArray[np.generic], image: Picture) -> npt.NDArray[np.generic]:
    """A label [h, w], resized by nearest pixel to [H, W], the size of an image."""
    return resize_nearest(label, image.shape[:2])


def data_uri(picture: Picture, kind: Literal["webp", "png"]) -> str:
    """A picture, uint8 [H, W, 3], as a `data:` URI. kind: webp for photographs, png for maps."""
    buffer = io.BytesIO()
    options = {"quality": 82, "method": 4} if kind == "webp" else {"optimize": True}
    Image.fromarray(picture).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def describe(label: npt.NDArray[np.generic], class_names: Sequence[str], most: int = 3) -> str:
    """The most frequent classes of a label in words, e.g. `Road 41 %, Sky 20 %, Tree 12 %; 15 % without a class`.

    label: [H, W], class index; NaN or IGNORE_INDEX = no class
    most:  number of classes
    """
    index = class_index(label)
    fractions = np.bincount(index.ravel(), minlength=IGNORE_INDEX + 1) / index.size
    order = [k for k in np.argsort(-fractions[: len(class_names)], kind="stable")[:most].tolist() if fractions[k] > 0]
    named = ", ".join(f"{class_names[k]} {100 * fractions[k]:.0f}\u00a0%" for k in order)
    blank = fractions[IGNORE_INDEX]
    ending = f"{100 * blank:.0f}\u00a0% without a class" if blank else ""
    return "; ".join(text for text in (named, ending) if text)


def _blend(image: Picture, colours: Picture, is_painted: npt.NDArray[np.bool_]) -> Picture:
    blended = np.rint((1 - OPACITY) * image + OPACITY * colours.astype(np.float32)).astype(np.uint8)
    return np.where(is_painted[..., None], blended, hatch(image))


def _scaled(values: npt.NDArray[np.floating], low: float, high: float) -> tuple[Picture, npt.NDArray[np.bool_]]:
    is_finite = np.isfinite(values)
    position = (np.where(is_finite, values, low) - low) / max(high - low, 1e-12)
    steps = np.rint(np.clip(position, 0, 1) * (SCALE_STEPS - 1)).astype(np.intp)
    return scale_colours()[steps], is_finite

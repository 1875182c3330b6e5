"""Weak augmentation of an image together with its target: random resize, pad, random crop, flip."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets import IGNORE_INDEX

Uint8 = npt.NDArray[np.uint8]

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


class View(NamedTuple):
    """An image and its target, seen through the same geometry."""

    image: Uint8  # [H, W, 3] RGB
    target: Uint8  # [H, W] class index, 255 = ignore


def weak_view(view: View, rng: random.Random, crop: int, scale: tuple[float, float], flip: float) -> View:
    """The usual weak view of semi-supervised segmentation, `crop` x `crop`.

    scale: range of the long side, in parts of the image's own
    flip:  probability of a horizontal flip
    """
    view = resized(view, random_size(view.target.shape, rng, scale))
    view = random_crop(padded(view, crop), rng, crop)
    return flipped(view) if rng.random() < flip else view


def random_size(size: tuple[int, ...], rng: random.Random, scale: tuple[float, float]) -> tuple[int, int]:
    """(height, width) whose long side is a uniform random integer of the range; the aspect is kept."""
    long_side = max(size)
    target = rng.randint(max(1, int(long_side * scale[0])), max(1, int(long_side * scale[1])))
    height, width = (max(1, int(side * target / long_side + 0.5)) for side in size)
    return height, width


def resized(view: View, size: tuple[int, int]) -> View:
    """Image bilinear (with antialiasing), target nearest."""
    return View(
        _resize(view.image, size, Image.Resampling.BILINEAR), _resize(view.target, size, Image.Resampling.NEAREST)
    )


def _resize(array: Uint8, size: tuple[int, int], method: Image.Resampling) -> Uint8:
    height, width = size
    return np.asarray(Image.fromarray(array).resize((width, height), method))


def padded(view: View, side: int) -> View:
    """At least `side` x `side`: right and bottom filled with black, ignored pixels."""
    height, width = view.target.shape
    border: Any = ((0, max(0, side - height)), (0, max(0, side - width)))
    return View(np.pad(view.image, (*border, (0, 0))), np.pad(view.target, border, constant_values=IGNORE_INDEX))


def random_crop(view: View, rng: random.Random, side: int) -> View:
    """A `side` x `side` window, uniform over the places where it fits."""
    height, width = view.target.shape
    left, top = rng.randint(0, width - side), rng.randint(0, height - side)
    window = slice(top, top + side), slice(left, left + side)
    return View(view.image[window], view.target[window])


def flipped(view: View) -> View:
    return View(view.image[:, ::-1], view.target[:, ::-1])

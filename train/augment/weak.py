"""Weak augmentation of an image together with its target: random resize, padding, random crop, flip."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX


class Geometry(NamedTuple):
    """Parameters of one weak view, in pixels."""

    height: int  # of the image after the random resize
    width: int
    top: int  # corner of the crop, in the resized image
    left: int
    flip: bool  # mirrored left to right, after the crop


def draw_geometry(
    rng: random.Random, size: tuple[int, int], crop: int, scale: tuple[float, float], flip: float
) -> Geometry:
    """Random parameters as usual in semi-supervised segmentation.

    size:  height and width of the image, pixels
    crop:  side of the view, pixels. A smaller image is padded at the right and at the bottom. The corner of the crop is
           uniform over all corners at which the crop fits.
    scale: range of the resized long side, relative to that of the image. The side is a uniform random integer; the
           aspect ratio is kept.
    flip:  probability of a horizontal flip, 0 to 1
    """
    height, width = _random_size(rng, size, scale)
    left, top = rng.randint(0, max(0, width - crop)), rng.randint(0, max(0, height - crop))
    return Geometry(height, width, top, left, rng.random() < flip)


def _random_size(rng: random.Random, size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
    long_side = max(size)
    target = rng.randint(max(1, int(long_side * scale[0])), max(1, int(long_side * scale[1])))
    height, width = (max(1, int(side * target / long_side + 0.5)) for side in size)
    return height, width


def weak_view(image: Tensor, target: Tensor, geometry: Geometry, crop: int) -> tuple[Tensor, Tensor]:
    """The weak view of an image (bilinear, antialiased) and its target (nearest pixel).

    Padding is black in the image and IGNORE_INDEX in the target.

    image:   uint8 [3, H, W]
    target:  uint8 [H, W], class index or IGNORE_INDEX
    returns: uint8 [3, crop, crop] and uint8 [crop, crop]
    """
    images, targets = weak_views([image], [target], [geometry], crop)
    return images[0], targets[0]


def target_view(target: Tensor, geometry: Geometry, crop: int, padding: int = IGNORE_INDEX) -> Tensor:
    """The target of `weak_view`, without the image: uint8 [..., H, W] -> uint8 [..., crop, crop].

    padding: value of the padding
    """
    rows, columns = _window(geometry, crop)
    window = _resized_target(target, geometry, rows, columns)
    return _placed(window, geometry, target.new_full((*target.shape[:-2], crop, crop), padding))


def weak_views(
    images: Sequence[Tensor], targets: Sequence[Tensor], geometries: Sequence[Geometry], crop: int
) -> tuple[Tensor, Tensor]:
    """The weak views of several images of any sizes.

    images:  uint8 [3, H, W] RGB each
    targets: uint8 [H, W] each, class index or IGNORE_INDEX
    crop:    side of the views, pixels
    returns: uint8 [B, 3, crop, crop] RGB, and uint8 [B, crop, crop], class index or IGNORE_INDEX
    """
    image_views = images[0].new_zeros((len(images), 3, crop, crop))
    target_views = targets[0].new_full((len(targets), crop, crop), IGNORE_INDEX)
    for number, (image, target, geometry) in enumerate(zip(images, targets, geometries, strict=True)):
        rows, columns = _window(geometry, crop)
        _placed(_resized(image, geometry)[:, rows, columns], geometry, image_views[number])
        _placed(_resized_target(target, geometry, rows, columns), geometry, target_views[number])
    return image_views, target_views


def _window(geometry: Geometry, crop: int) -> tuple[slice, slice]:
    """Rows and columns of the resized image that a view shows."""
    rows = slice(geometry.top, min(geometry.top + crop, geometry.height))
    return rows, slice(geometry.left, min(geometry.left + crop, geometry.width))


def _placed(window: Tensor, geometry: Geometry, view: Tensor) -> Tensor:
    """Copy a window, [..., h, w], to the upper left of a view of padding, mirrored if the geometry is."""
    height, width = window.shape[-2:]
    if geometry.flip:  # the padding is then on the left
        view[..., :height, view.shape[-1] - width :] = window.flip(-1)
    else:
        view[..., :height, :width] = window
    return view


def _resized(image: Tensor, geometry: Geometry) -> Tensor:
    size = (geometry.height, geometry.width)
    if image.device.type == "cpu":  # there torch has a kernel for uint8, three times as fast as Pillow's
        return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return resized_in_float(image, size)


def resized_in_float(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [3, H, W] to uint8 [3, *size] on a device without a kernel for uint8."""
    resized = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return resized.round_().to(torch.uint8)


def _resized_target(target: Tensor, geometry: Geometry, rows: slice, columns: slice) -> Tensor:
    """The window of the resized target, [..., H, W]; the rest is not computed."""
    chosen_rows = target.index_select(-2, _nearest(target.shape[-2], geometry.height, rows, target.device))
    return chosen_rows.index_select(-1, _nearest(target.shape[-1], geometry.width, columns, target.device))


def _nearest(length: int, resized: int, window: slice, device: torch.device) -> Tensor:
    # floor((i + 0.5) * length / resized) in integers, so that every device takes the same pixel; as pipeline.datasets
    pixels = torch.arange(window.start, window.stop, device=device)
    return (2 * pixels + 1) * length // (2 * resized)

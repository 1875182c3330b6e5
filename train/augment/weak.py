"""Weak augmentation of an image together with its target: random resize, pad, random crop, flip."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX


class Geometry(NamedTuple):
    """Where a weak view looks."""

    height: int  # of the image after the random resize
    width: int
    top: int  # corner of the crop, in the resized image
    left: int
    flip: bool  # mirrored left to right, after the crop


def draw_geometry(
    rng: random.Random, size: tuple[int, int], crop: int, scale: tuple[float, float], flip: float
) -> Geometry:
    """The usual geometry of semi-supervised segmentation for an image of `size` (height, width).

    crop:  side of the view; a smaller image is padded at the right and at the bottom. The corner is uniform over the
           places where the window fits
    scale: range of the long side, in parts of the image's own: a uniform random integer of it; the aspect is kept
    flip:  probability of a horizontal flip
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
    """Image (bilinear, antialiased) and target (nearest pixel) as `geometry` sees them; padding is black and ignored.

    image:   uint8 [3, H, W]
    target:  uint8 [H, W], class index or IGNORE_INDEX
    returns: uint8 [3, crop, crop] and uint8 [crop, crop]
    """
    images, targets = weak_views([image], [target], [geometry], crop)
    return images[0], targets[0]


def target_view(target: Tensor, geometry: Geometry, crop: int) -> Tensor:
    """The target alone, as `weak_view` sees it: uint8 [H, W] -> uint8 [crop, crop]."""
    rows, columns = _window(geometry, crop)
    window = _resized_target(target, geometry, rows, columns)
    return _placed(window, geometry, target.new_full((crop, crop), IGNORE_INDEX))


def weak_views(
    images: Sequence[Tensor], targets: Sequence[Tensor], geometries: Sequence[Geometry], crop: int
) -> tuple[Tensor, Tensor]:
    """The weak views of images of any size, side by side.

    images:  uint8 [3, H, W] each
    targets: uint8 [H, W] each, class index or IGNORE_INDEX
    returns: uint8 [B, 3, crop, crop] and uint8 [B, crop, crop]
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
    """Put a window, [..., h, w], into the upper left of a view of padding, mirrored as the geometry says."""
    height, width = window.shape[-2:]
    if geometry.flip:  # the padding moves to the left, too
        view[..., :height, view.shape[-1] - width :] = window.flip(-1)
    else:
        view[..., :height, :width] = window
    return view


def _resized(image: Tensor, geometry: Geometry) -> Tensor:
    size = (geometry.height, geometry.width)
    if image.device.type == "cpu":  # has a kernel for bytes, three times as fast as Pillow's
        return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return resized_in_float(image, size)


def resized_in_float(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, *size] of uint8 [3, H, W], for devices without a kernel for bytes."""
    resized = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return resized.round_().to(torch.uint8)


def _resized_target(target: Tensor, geometry: Geometry, rows: slice, columns: slice) -> Tensor:
    """A window of the resized target, without the rest of it."""
    chosen_rows = target.index_select(0, _nearest(target.shape[0], geometry.height, rows, target.device))
    return chosen_rows.index_select(1, _nearest(target.shape[1], geometry.width, columns, target.device))


def _nearest(source: int, resized: int, window: slice, device: torch.device) -> Tensor:
    # floor((i + 0.5) * source / resized) in integers: the same pixel on every device, see pipeline.datasets
    places = torch.arange(window.start, window.stop, device=device)
    return (2 * places + 1) * source // (2 * resized)

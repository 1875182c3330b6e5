"""Strong augmentation of a batch: colour jitter, grey and Gaussian blur, as in Pillow but in floating point."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# Probabilities and ranges as in AllSpark, UniMatch and UniMatch-V2.
JITTER = 0.8  # probability
FACTOR = (0.5, 1.5)  # range of the factors of brightness, contrast and saturation; 1 changes nothing
HUE = 0.25  # largest rotation of the hue, in full circles
GREY = 0.2  # probability
BLUR = 0.5  # probability
SIGMA = (0.1, 2.0)  # range, pixels

KERNEL_RADIUS = 3  # in sigmas; omits 0.3 % of the weight
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # ITU-R 601 as Pillow rounds it, exact in float32


class Photometric(NamedTuple):
    """Parameters of one strong view: colour jitter, then grey, then blur."""

    brightness: float  # factor
    contrast: float  # factor
    saturation: float  # factor
    hue: float  # rotation, in full circles
    order: tuple[int, ...]  # in which the four changes above are applied, numbered 0 to 3
    jitter: bool  # whether the four changes above are applied
    grey: bool
    sigma: float  # of the blur, pixels; 0 = no blur


def draw_photometric(rng: random.Random) -> Photometric:
    """Random parameters as usual in semi-supervised segmentation; always draws the same number of random values."""
    brightness, contrast, saturation = (rng.uniform(*FACTOR) for _ in range(3))
    hue = rng.uniform(-HUE, HUE)
    order = tuple(rng.sample(range(4), 4))
    jitter, grey, blur = (rng.random() < probability for probability in (JITTER, GREY, BLUR))
    sigma = rng.uniform(*SIGMA)
    return Photometric(brightness, contrast, saturation, hue, order, jitter, grey, sigma if blur else 0.0)


def strong_views(images: Tensor, draws: Sequence[Photometric]) -> Tensor:
    """The strong view of each image; the result is bit-identical to augmenting the images one by one.

    Values are rounded once, at the end. Pillow rounds after each change, so its results differ by a few grey levels.

    images:  uint8 [B, 3, H, W] RGB
    draws:   the parameters of each image
    returns: uint8 [B, 3, H, W] RGB
    """
    # On a CPU one image at a time, because it fits the cache. On a GPU the whole batch, for few kernel launches.
    step = 1 if images.device.type == "cpu" else max(1, len(draws))
    views = torch.empty_like(images)
    for first in range(0, len(draws), step):
        group = slice(first, first + step)
        views[group] = change_colours(images[group].float(), draws[group]).round_()
    return views


def change_colours(images: Tensor, draws: Sequence[Photometric]) -> Tensor:
    """Augment images, float32 [B, 3, H, W] RGB in [0, 255], in place, and return them.

    Each change is applied at once to all images that have it at the same point of their order.
    """
    jittered = {image: draw for image, draw in enumerate(draws) if draw.jitter}
    for point in range(4):
        for number, change in enumerate((adjust_brightness, adjust_contrast, adjust_saturation, turn_hue)):
            values = {image: draw[:4][number] for image, draw in jittered.items() if draw.order[point] == number}
            _change(images, values, change)
    _change(images, {image: 1.0 for image, draw in enumerate(draws) if draw.grey}, make_grey)
    sigmas = {image: draw.sigma for image, draw in enumerate(draws) if draw.sigma > 0}
    _change(images, dict(sorted(sigmas.items(), key=lambda item: -item[1])), blur)
    return images


def _change(images: Tensor, values: dict[int, float], change: Callable[[Tensor, Sequence[float]], None]) -> None:
    """Apply `change` in place to some images, in the order of `values`: index of the image -> its value."""
    if list(values) == list(range(len(images))):
        change(images, list(values.values()))
    elif values:
        index = _on_device(list(values), images.device, torch.int64)
        chosen = images.index_select(0, index)
        change(chosen, list(values.values()))
        images.index_copy_(0, index, chosen)


def _on_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    # Not blocking: indexing with a list, or torch.tensor(device=...), would wait for the device to finish its work.
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _per_image(values: Sequence[float], images: Tensor) -> Tensor:
    return _on_device(values, images.device)[:, None, None, None]  # [B, 1, 1, 1]


# Each of these functions changes images, float32 [B, 3, H, W] in [0, 255], in place, by one value per image.


def adjust_brightness(images: Tensor, factors: Sequence[float]) -> None:
    """Blend with black."""
    images.mul_(_per_image(factors, images)).clamp_(max=255)


def adjust_contrast(images: Tensor, factors: Sequence[float]) -> None:
    """Blend with the rounded mean of the grey image."""
    # Row sums are exact in float32, because they add whole numbers; the sum of a whole image would not be.
    total = _grey(images).sum(-1).long().sum(-1)  # [B, 1]
    num_pixels = images.shape[-2] * images.shape[-1]
    mean = ((2 * total + num_pixels) // (2 * num_pixels))[..., None, None]  # [B, 1, 1, 1]
    weight = _per_image(factors, images)
    images.mul_(weight).add_(mean * (1 - weight)).clamp_(0, 255)


def adjust_saturation(images: Tensor, factors: Sequence[float]) -> None:
    """Blend with the grey image."""
    torch.lerp(_grey(images), images, _per_image(factors, images), out=images).clamp_(0, 255)


def make_grey(images: Tensor, _: Sequence[float]) -> None:
    """All channels equal to the luma."""
    images.copy_(_grey(images))


def _grey(images: Tensor) -> Tensor:
    """Luma, float32 [B, 1, H, W], rounded to whole numbers; bit-identical to Pillow's mode L for integer images."""
    red, green, blue = images.chunk(3, dim=1)
    grey = torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return grey.add_(0.5).floor_()


def turn_hue(images: Tensor, turns: Sequence[float]) -> None:
    """Rotate the hue by fractions of a full circle; value and saturation in the sense of HSV do not change.

    With value V and chroma C, a channel equals V while the hue is within a sixth of the circle from the channel's own
    hue, V - C from two sixths on, and is linear in between: V - min(C, max(0, dC - C)) at a distance of d sixths.
    C times the hue follows from the colours without a division, so a rotation by 0 leaves whole numbers unchanged.
    """
    red, green, blue = images.unbind(1)  # [B, H, W]
    value = torch.maximum(red, green).maximum(blue)
    chroma = torch.minimum(red, green).minimum(blue).neg_().add_(value)
    hue = _scaled_hue(red, green, blue, value, chroma)
    dip = torch.empty_like(hue)
    for channel, own in enumerate((0, 2, 4)):  # red, green, blue, in sixths of the circle
        # x = hue + offset is the distance of the rotated hue from the opposite of the channel's own hue, own + 3. The
        # hue is in [-3, 3], and so is the offset, so x is in [-6, 6], where d = ||x| - 3| holds.
        offsets = _on_device([(6 * turn - own) % 6 - 3 for turn in turns], images.device)
        torch.addcmul(hue, chroma, offsets[:, None, None], out=dip).abs_().sub_(chroma, alpha=3).abs_()
        torch.minimum(dip.sub_(chroma).clamp_(min=0), chroma, out=dip)
        torch.sub(value, dip, out=images[:, channel])


def _scaled_hue(red: Tensor, green: Tensor, blue: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Chroma times the hue in sixths of the circle, in [-3, 3]: 0 red, 2 green, -2 blue.

    Let D = V - red and e = C - |green - blue|. The distance from red is C + D where red is the middle channel (e is 0
    there), C + D - e where red is the largest (D = 0), and C + D + e where it is the smallest (D = C). In all cases
    that is C + D plus 2D - C clamped to [-e, e]. Without torch.where, which takes several times as long on a CPU.
    """
    sign = green - blue
    below = value - red
    rest = torch.sub(chroma, sign.abs())
    distance = torch.sub(below, chroma, alpha=0.5).mul_(2)
    torch.minimum(distance, rest, out=distance)
    torch.maximum(distance, rest.neg_(), out=distance)
    return distance.add_(chroma).add_(below).copysign_(sign)


def blur(images: Tensor, sigmas: Sequence[float]) -> None:
    """Gaussian blur; beyond its border the image is mirrored, without repeating the outermost pixel.

    sigmas: pixels, largest first, so that the outer weights of the widest kernel are only needed for the first images
    """
    # On a CPU one channel at a time, because the cache holds the operands of one channel but not of three.
    for channels in images.chunk(3 if images.device.type == "cpu" else 1, dim=1):
        for axis in (-1, -2):
            _blur_along(channels, axis, sigmas)


def _blur_along(images: Tensor, axis: int, sigmas: Sequence[float]) -> None:
    # Sums of shifted images: 1 to 4 ms on one core at 513 x 513 pixels, where a grouped convolution takes 15 ms or
    # more. Also, the rounding of a convolution may depend on the batch size.
    side = images.shape[axis]
    kernels = [gaussian_kernel(sigma, side - 1) for sigma in sigmas]
    widest = len(kernels[0]) - 1
    weights = _on_device([kernel + [0.0] * (widest + 1 - len(kernel)) for kernel in kernels], images.device)
    weights = weights[..., None, None, None]  # [B, shift, 1, 1, 1]
    border = (widest, widest, 0, 0) if axis == -1 else (0, 0, widest, widest)
    padded = functional.pad(images, border, mode="reflect")
    images.mul_(weights[:, 0])
    for shift in range(1, widest + 1):
        num = sum(len(kernel) > shift for kernel in kernels)
        for start in (widest - shift, widest + shift):
            images[:num].addcmul_(padded[:num].narrow(axis, start, side), weights[:num, shift])


def gaussian_kernel(sigma: float, largest_radius: int) -> list[float]:
    """Weights of the central pixel and of the pixels at distance 1, 2, ... on either side; the kernel sums to 1.

    sigma:          pixels
    largest_radius: limit of the kernel's radius, pixels
    """
    radius = min(math.ceil(KERNEL_RADIUS * sigma), largest_radius)
    weights = [math.exp(-((shift / sigma) ** 2) / 2) for shift in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]

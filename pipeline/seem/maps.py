"""Input and output of the network: images to network input, masks of queries to maps of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.seem.configuration import SeemConfig
from pipeline.seem.errors import SeemError

Normalise = Literal["none", "cap", "sum"]
Size = Literal["original", "native"]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)  # of ImageNet, for RGB in 0..255
MASK_STRIDE = 4
MASK_CHUNK = 16  # number of masks resized at a time


class Geometry(NamedTuple):
    """The sizes of an image in pixels, each (height, width): as given, resized, and padded."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @property
    def native(self) -> tuple[int, int]:
        """Size of the masks without the padding."""
        height, width = (-(-length // MASK_STRIDE) for length in self.resized)
        return height, width


def plan_sizes(original: Sequence[int], short_side: int, config: SeemConfig) -> Geometry:
    """Resize the short side to `short_side`, keep the aspect ratio (the long side is rounded down), then pad.

    The padding is on the right and at the bottom. For `sam_vit` the long side is at most `image_size`.
    """
    height, width = original
    short, long = min(height, width), max(height, width)
    new_short, new_long = short_side, short_side * long // short
    if config.backbone == "sam_vit" and new_long > config.image_size:
        new_short, new_long = config.image_size * short // long, config.image_size
    resized = (new_short, new_long) if height <= width else (new_long, new_short)
    divisor = config.size_divisor
    padded_height, padded_width = (-(-length // divisor) * divisor for length in resized)
    return Geometry((height, width), resized, (padded_height, padded_width))


def network_input(images: NDArray[np.uint8], short_side: int, config: SeemConfig) -> tuple[Tensor, Geometry]:
    """Resize (bicubic, as uint8), normalise and pad images.

    The padding is 0 after normalisation. The network does not mask it, so results depend on it. Images of the same size
    have the same padding, and so the same maps in any batch.

    images:  uint8 [B, H, W, 3] RGB
    returns: float32 [B, 3, padded height, padded width], and the sizes
    raises:  SeemError for an array of another dtype or shape
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise SeemError(
            f"images are {images.dtype} of shape {list(images.shape)}, expected uint8 [B, H, W, 3]; convert them"
        )
    geometry = plan_sizes(images.shape[1:3], short_side, config)
    height, width = geometry.resized
    resized = np.stack([
        np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in images
    ])  # fmt: skip
    pixels = (torch.from_numpy(resized).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    right, below = geometry.padded[1] - width, geometry.padded[0] - height
    return F.pad(pixels.permute(0, 3, 1, 2), (0, right, 0, below)), geometry


def class_maps(mask_logits: Tensor, scores: Tensor, geometry: Geometry, size: Size) -> Tensor:
    """Sum over queries of class score times mask probability, for one image.

    mask_logits: float [Q, h, w]
    scores:      float32 [Q, K]
    returns:     float32 [K, H, W] (or the native size); only MASK_CHUNK masks are at full size at a time
    """
    height, width = geometry.original if size == "original" else geometry.native
    sums = torch.zeros(scores.shape[1], height * width, device=mask_logits.device)
    for masks, weights in zip(mask_logits.split(MASK_CHUNK), scores.split(MASK_CHUNK), strict=True):
        probabilities = _resize_logits(masks.float(), geometry, size).sigmoid().flatten(1)
        sums.addmm_(weights.T, probabilities)
    return sums.unflatten(1, (height, width))


def mask_maps(mask_logits: Tensor, geometry: Geometry, size: Size) -> Tensor:
    """Mask probabilities: logits float [K, h, w] -> float32 [K, H, W] in [0, 1], or at the native size."""
    return torch.cat([
        _resize_logits(masks.float(), geometry, size).sigmoid() for masks in mask_logits.split(MASK_CHUNK)
    ])  # fmt: skip


def _resize_logits(logits: Tensor, geometry: Geometry, size: Size) -> Tensor:
    """Resize logits float32 [N, h, w] to the padded size, cut off the padding, and resize to [N, H, W] or native."""
    height, width = geometry.resized
    if size == "native" and height % MASK_STRIDE == 0 and width % MASK_STRIDE == 0:
        return logits[:, : height // MASK_STRIDE, : width // MASK_STRIDE]
    large = F.interpolate(logits[None], geometry.padded, mode="bilinear", align_corners=False)[..., :height, :width]
    if size == "native":
        return F.interpolate(large, geometry.native, mode="bilinear", align_corners=False)[0]
    if geometry.original == geometry.resized:
        return large[0]
    return F.interpolate(large, geometry.original, mode="bicubic", align_corners=False, antialias=True)[0]


def normalised(maps: Tensor, normalise: Normalise, class_axis: int = 0) -> Tensor:
    """Divide maps by max(1, sum over classes) (`cap`) or by the sum (`sum`). The most probable class does not change.

    maps:    float32 [K, H, W], or a batch, at least 0
    returns: the same shape; in [0, 1] for `cap` and `sum`
    """
    total = maps.sum(dim=class_axis, keepdim=True)
    if normalise == "cap":
        return maps / total.clamp(min=1)
    if normalise == "sum":
        return maps / total.clamp(min=torch.finfo(maps.dtype).tiny)
    return maps

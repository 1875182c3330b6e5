"""The sine code that tells attention where on a map a feature lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000.0
EPSILON = 1e-6


def sine_position(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Position code of every cell of a map: sines and cosines of y in the first half of the channels, of x in the rest.

    channels: a multiple of 4
    returns:  float [channels, H, W] in [-1, 1]
    source:   the code of DETR (Carion et al. 2020), counted from 1 and scaled to 2 pi
    """
    half = channels // 2
    exponents = 2 * torch.arange(half // 2, device=device, dtype=torch.float32) / half
    wavelengths = TEMPERATURE**exponents  # [half / 2], each shared by a sine and a cosine
    rows, columns = (_axis_code(length, wavelengths) for length in (height, width))
    code = torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)])
    return code.to(dtype)


def _axis_code(length: int, wavelengths: Tensor) -> Tensor:
    """float [2 * wavelengths, length], sine and cosine in turn."""
    places = torch.arange(1, length + 1, device=wavelengths.device, dtype=torch.float32)
    angles = places / (length + EPSILON) * (2 * math.pi) / wavelengths[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)

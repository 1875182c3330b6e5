"""The sine encoding of positions on a map, for attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000.0
EPSILON = 1e-6


def sine_position(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Position encoding of every cell of a map: sines and cosines of y, then of x, in half of the channels each.

    It is the encoding of DETR (Carion et al. 2020), counted from 1 and scaled to 2 pi.

    channels: a multiple of 4
    returns:  float [channels, H, W] in [-1, 1]
    """
    half = channels // 2
    exponents = 2 * torch.arange(half // 2, device=device, dtype=torch.float32) / half
    wavelengths = TEMPERATURE**exponents  # [half / 2], one for each pair of sine and cosine
    rows, columns = (_axis_code(length, wavelengths) for length in (height, width))
    code = torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)])
    return code.to(dtype)


def _axis_code(length: int, wavelengths: Tensor) -> Tensor:
    """float [2 * wavelengths, length], sines and cosines alternating."""
    positions = torch.arange(1, length + 1, device=wavelengths.device, dtype=torch.float32)
    angles = positions / (length + EPSILON) * (2 * math.pi) / wavelengths[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)

"""Strips of class maps, reduced over the classes by torch, on a GPU: the same numbers as those of the compiled loops.

Every operation is an element-wise kernel of its own, which rounds as IEEE 754 prescribes: nothing is fused, and sums
over the classes are in the order of the classes. Results are therefore equal to those of `pipeline.resample` and
`calib.class_planes`, to the bit, on every device of torch that keeps to the standard, as a CPU and CUDA do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import calib
from pipeline import resample
from pipeline.errors import ConfigError
from pipeline.store import ProbabilityReader

STRIP_BYTES = 128_000_000  # of the maps of a strip; six times as much is needed in the memory of the device
_ONE_AT_A_TIME = threading.Lock()  # so that the memory in use does not grow with the number of threads


def row_strips(reader: ProbabilityReader) -> Iterator[slice]:
    """The rows of an image in strips for the memory of a device, top to bottom."""
    height, width = reader.grid
    step = max(1, STRIP_BYTES // (len(reader.maps) * width * 4))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


class ReducedRows(NamedTuple):
    """Rows of an image, reduced over the classes, in the memory of this process.

    planes: each [rows, W]
    p_true: float32 [rows, W], probability of the true class; None without true classes
    maps:   float32 [K, rows, W] in [0, 1]; None if they are not needed
    """

    planes: calib.Planes
    p_true: npt.NDArray[np.float32] | None
    maps: npt.NDArray[np.float32] | None


def reduced_rows(
    device: str,
    reader: ProbabilityReader,
    rows: slice,
    background: int | None,
    true_class: npt.NDArray[np.intp] | None,
    needs_maps: bool,
) -> ReducedRows:
    """Rows of an image, reduced on a device.

    device:     of torch
    background: index of the background class, None if there is none
    true_class: intp [rows, W], 0..K - 1; None if its probability is not needed
    raises:     ConfigError if the memory of the device runs out; ValueError as `calib.class_planes`
    """
    with _alone_on(device, reader, rows):
        maps = resized_rows(torch.from_numpy(reader.maps).to(device), reader.grid, rows)
        if reader.is_logits:
            maps = softmax(maps)
        if not bool((maps < torch.inf).all()):
            calib.class_planes(maps.cpu().numpy(), background)  # names the error
        best, first, second = (plane.cpu().numpy() for plane in class_planes(maps, background))
        planes = calib.Planes(best, first, second, None if background is None else maps[background].cpu().numpy())
        p_true = None
        if true_class is not None:
            p_true = maps.gather(0, torch.from_numpy(true_class[np.newaxis]).to(device))[0].cpu().numpy()
        return ReducedRows(planes, p_true, maps.cpu().numpy() if needs_maps else None)


@contextmanager
def _alone_on(device: str, reader: ProbabilityReader, rows: slice) -> Iterator[None]:
    """Context in which no other thread uses a device, and in which memory that runs out is a ConfigError."""
    try:
        with _ONE_AT_A_TIME:
            yield
    except torch.OutOfMemoryError:
        size = f"{rows.stop - rows.start} rows of {len(reader.maps)} class maps of {reader.grid[0]} x {reader.grid[1]}"
        raise ConfigError(
            f"the memory of {device} runs out with {size}; end other processes on it, or set compute.device: cpu"
        ) from None


def resized_rows(maps: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """`pipeline.resample.resize_bilinear` on a device: float32 [K, h, w] -> float32 [K, rows, W]."""
    if tuple(maps.shape[-2:]) == size:
        return maps[:, rows]
    height, width = maps.shape[-2:]
    of_rows = resample.bilinear_taps(height, size[0])
    low, high = of_rows.low[rows], of_rows.high[rows]
    needed = slice(int(low.min()), int(high.max()) + 1)
    wide = _interpolated(maps[:, needed], 2, resample.bilinear_taps(width, size[1]))
    return _interpolated(wide, 1, resample.Taps(low - needed.start, high - needed.start, of_rows.weight[rows]))


def _interpolated(maps: Tensor, axis: int, taps: resample.Taps) -> Tensor:
    """Maps at the positions of the taps on an axis."""
    low, high, weight = (torch.from_numpy(of).to(maps.device) for of in taps)
    first = maps.index_select(axis, low)
    step = maps.index_select(axis, high).sub_(first)
    return step.mul_(weight.view(-1, *[1] * (2 - axis))).add_(first)


def softmax(logits: Tensor) -> Tensor:
    """`pipeline.resample.softmax` on a device: float32 [K, rows, W], logits -> probabilities."""
    x = (logits - logits.amax(dim=0)).clamp_(min=float(resample.SMALLEST_EXPONENT))
    shifted = (x * float(resample.PER_LN2)).add_(float(resample.TO_INTEGER))
    n = shifted - float(resample.TO_INTEGER)
    r = x.sub_(n * float(resample.LN2_HIGH)).sub_(n.mul_(float(resample.LN2_LOW)))
    p = torch.full_like(r, float(resample.TAYLOR_7))
    for term in (
        resample.TAYLOR_6,
        resample.TAYLOR_5,
        resample.TAYLOR_4,
        resample.TAYLOR_3,
        resample.TAYLOR_2,
    ):
        p.mul_(r).add_(float(term))
    p.mul_(r * r).add_(r).add_(float(resample.TAYLOR_0))
    # 2^n from its exponent, the last bits of `shifted`; without the bits above it, the shift cannot overflow
    bits = shifted.view(torch.int32).add_(int(resample.BIAS)).bitwise_and_(0xFF)
    p.mul_(bits.bitwise_left_shift_(int(resample.MANTISSA_BITS)).view(torch.float32))
    total = torch.zeros_like(p[0])
    for power in p:  # in the order of the classes: another order rounds differently
        total += power
    return p.div_(total)


def class_planes(probabilities: Tensor, background: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """best_foreground (uint8), p_foreground and p_second of `calib.class_planes` on a device.

    probabilities: float32 [K, rows, W], no NaN
    """
    foreground = [k for k in range(len(probabilities)) if k != background]
    chosen = torch.tensor(foreground, device=probabilities.device)
    of_foreground = probabilities.index_select(0, chosen)
    first, index = of_foreground.max(dim=0)  # of equal ones the first
    if len(foreground) == 1:
        second = torch.full_like(first, torch.nan)
    else:
        second = of_foreground.scatter_(0, index[None], -torch.inf).amax(dim=0)
    return chosen[index].to(torch.uint8), first, second

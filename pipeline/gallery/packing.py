"""Arrays in the page: their size and their encoding."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def shown_size(size: Sequence[int], longest: int) -> tuple[int, int]:
    """Height and width in pixels, reduced until the longer one is at most `longest`."""
    factor = min(1.0, longest / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def steps(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """int32 like `counts`, differences along the last axis, which compress better than the counts."""
    return np.diff(counts, axis=-1, prepend=0).astype("<i4")


def pack(array: npt.NDArray[Any]) -> str:
    """The bytes of an array, compressed (zlib format, whose checksum the browser verifies), in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()

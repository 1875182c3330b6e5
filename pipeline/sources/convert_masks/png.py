"""Index masks as palette PNGs, written whole or not at all."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.files import replacing

IGNORE = 255


def write_mask(path: Path, mask: npt.NDArray[np.uint8]) -> None:
    """Write uint8 [H, W] as a palette PNG in VOC's colours; what has its final name is complete."""
    picture = Image.fromarray(mask)
    picture.putpalette(PALETTE)
    with replacing(path) as part:
        picture.save(part, format="PNG", compress_type=zlib.Z_RLE)  # masks are runs: a third of the time, and smaller


def voc_palette() -> bytes:
    """768 bytes, RGB of each index: the bits of the index, dealt in turn to red, green and blue from the top bit on."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> 3 * bit + channel & 1) << 7 - bit).astype(np.uint8)
    return colours.tobytes()


PALETTE = voc_palette()

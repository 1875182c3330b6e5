"""Writes index masks as palette PNGs, atomically."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.files import replacing


def write_mask(path: Path, mask: npt.NDArray[np.uint8]) -> None:
    """Write a mask, uint8 [H, W], as a palette PNG in VOC's colours. A file with its final name is complete."""
    picture = Image.fromarray(mask)
    picture.putpalette(PALETTE)
    with replacing(path) as part:
        # masks consist of runs: Z_RLE takes a third of the time and gives smaller files
        picture.save(part, format="PNG", compress_type=zlib.Z_RLE)


def voc_palette() -> bytes:
    """768 bytes, RGB of each index. The bits of the index go in turn to red, green and blue, from their top bit on."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> 3 * bit + channel & 1) << 7 - bit).astype(np.uint8)
    return colours.tobytes()


PALETTE = voc_palette()

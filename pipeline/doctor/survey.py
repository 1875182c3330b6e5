"""Look once at every image and every mask that a run may use, in parallel, through the readers that the stages use."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from pipeline.datasets import Sample, evenly_spaced, read_image, read_mask_values
from pipeline.errors import DatasetError
from pipeline.progress import Progress
from pipeline.settings import DataSettings

log = logging.getLogger(__name__)

UPRIGHT = 1  # EXIF orientation
# what Pillow raises for files that are unreadable, truncated, or larger than it will decode
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class ImageLook(NamedTuple):
    """What an image file holds."""

    size: tuple[int, int]
    """Height and width."""
    mode: str
    """Pillow's, as stored."""
    orientation: int
    """EXIF's: 1 is upright, 5 to 8 lie on their side."""
    digest: str
    """Of the pixels: equal pictures have equal ones, whatever their format."""
    perceptual_hash: int
    """64 bits; pictures that look alike differ in few of them."""


class MaskLook(NamedTuple):
    """What a mask file holds."""

    size: tuple[int, int]
    values: Mapping[int, int]
    """Value -> number of pixels; empty for colour pictures."""
    num_colours: int = 0
    """Of a colour picture; 0 for index masks."""
    is_grey: bool = False
    """Of a colour picture: are its channels equal?"""


class Look(NamedTuple):
    """One sample: its image and, unless it is unlabeled, its mask; or why they cannot be read."""

    sample: Sample
    image: ImageLook | None
    mask: MaskLook | None
    problems: tuple[str, ...] = ()


class Survey(NamedTuple):
    """Everything that was looked at."""

    looks: tuple[Look, ...]
    num_samples: int
    """How many the run has; more than `looks` after a quick look."""
    seconds: float

    @property
    def is_whole(self) -> bool:
        return len(self.looks) == self.num_samples

    @property
    def image_sizes(self) -> npt.NDArray[np.int64]:
        """int64 [N, 2] heights and widths of the readable images."""
        sizes = [look.image.size for look in self.looks if look.image is not None]
        return np.array(sizes, np.int64).reshape(-1, 2)

    def masks_of(self, *splits: str) -> list[MaskLook]:
        """Index masks of the images of these splits."""
        looks = (look.mask for look in self.looks if look.sample.split in splits)
        return [mask for mask in looks if mask is not None and not mask.num_colours]


def survey(samples: Sequence[Sample], data: DataSettings, quick: int | None = None) -> Survey:
    """Decode images and masks with all cores.

    quick: look at this many images only, evenly spaced over the list of samples
    """
    chosen = evenly_spaced(samples, quick or len(samples))
    start, root = time.monotonic(), Path(data.root)
    progress, looks = Progress(log, "doctor", len(chosen), "images"), []
    with ThreadPoolExecutor(data.workers or os.cpu_count()) as pool:
        for look in pool.map(lambda sample: look_at(sample, root), chosen):
            looks.append(look)
            progress.advance()
    return Survey(tuple(looks), len(samples), time.monotonic() - start)


def look_at(sample: Sample, root: Path) -> Look:
    """Read one image and its mask; what cannot be read becomes a problem."""
    image, mask, problems = None, None, []
    try:
        image = look_at_image(root / sample.image)
    except UNREADABLE as error:
        problems.append(f"{root / sample.image} ({error})")
    if sample.mask is not None:
        try:
            mask = look_at_mask(root / sample.mask)
        except UNREADABLE as error:
            problems.append(f"{root / sample.mask} ({error})")
    return Look(sample, image, mask, tuple(problems))


def look_at_image(path: Path) -> ImageLook:
    """raises: one of UNREADABLE"""
    with Image.open(path) as header:
        mode, orientation = header.mode, header.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    pixels = read_image(path)
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=8, key=str(pixels.shape).encode()).hexdigest()
    height, width = pixels.shape[:2]
    return ImageLook((height, width), mode, orientation, digest, perceptual_hash(pixels))


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64 bits of uint8 [H, W, 3] RGB: signs of its coarsest cosine coefficients (imagehash.phash)."""
    bits: npt.NDArray[np.bool_] = imagehash.phash(Image.fromarray(pixels)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look_at_mask(path: Path) -> MaskLook:
    """raises: one of UNREADABLE"""
    try:
        values = read_mask_values(path)
    except DatasetError:  # a colour picture
        return _look_at_colours(read_image(path))
    found, numbers = np.unique(values, return_counts=True)
    return MaskLook(_size(values), dict(zip(found.tolist(), numbers.tolist(), strict=True)))


def _look_at_colours(pixels: npt.NDArray[np.uint8]) -> MaskLook:
    """uint8 [H, W, 3] RGB"""
    red, green, blue = pixels.astype(np.uint32).transpose(2, 0, 1)
    num_colours = len(np.unique(red << 16 | green << 8 | blue))
    return MaskLook(_size(pixels), {}, num_colours, is_grey=bool((red == green).all() and (green == blue).all()))


def _size(pixels: npt.NDArray[Any]) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    return height, width

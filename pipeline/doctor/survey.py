"""Reads every image and every mask that a run may use once, in parallel, with the readers of the stages."""

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
from PIL import Image

from pipeline.datasets import SPLITS, Sample, evenly_spaced
from pipeline.errors import DatasetError, ImageFileError
from pipeline.images import Header, PixelLimit, load_mask, read_content
from pipeline.progress import Progress
from pipeline.settings import DataSettings, TileSettings
from pipeline.sources.rows import MASKS, PHOTOGRAPHS, mask_values, open_rows
from pipeline.sources.tiles import tiles_in

log = logging.getLogger(__name__)


class ImageFacts(NamedTuple):
    """Facts of an image file."""

    header: Header
    brightest: int
    """Largest value of its pixels, 0 to 255."""
    digest: str
    """Digest of the pixels, independent of the file format."""
    perceptual_hash: int
    """64 bits; similar images differ in few of them."""


class MaskFacts(NamedTuple):
    """Facts of a mask file."""

    size: tuple[int, int]
    """Height and width in pixels."""
    values: Mapping[int, int]
    """Number of pixels by value; empty for colour images."""
    colours: Mapping[int, int] = {}
    """Colour as 0xRRGGBB by value; empty without a palette."""
    highest: int = 255
    """Largest value that a pixel of the file can have."""
    num_colours: int = 0
    """Number of colours of a colour image; 0 for index masks."""
    is_grey: bool = False
    """Whether the channels of a colour image are equal."""


class SampleFacts(NamedTuple):
    """Facts of a sample: of its image and its mask. Masks of unlabeled images are not read."""

    sample: Sample
    image: ImageFacts | None
    mask: MaskFacts | None
    problems: tuple[str, ...] = ()
    """Files that cannot be read, with the reason."""


class Survey(NamedTuple):
    """Facts of all samples that were read."""

    samples: tuple[SampleFacts, ...]
    num_samples: int
    """Number of samples of the run; with --quick more than were read."""
    seconds: float
    """Time of reading them."""

    @property
    def is_complete(self) -> bool:
        return len(self.samples) == self.num_samples

    def sizes(self, tile: TileSettings | None, *splits: str) -> npt.NDArray[np.int64]:
        """int64 [N, 2], heights and widths of the readable images, or of their tiles; of all splits by default."""
        chosen = (facts for facts in self.samples if facts.image and facts.sample.split in (splits or SPLITS))
        sizes = [size for facts in chosen if facts.image for size in _sizes_of(facts.image.header.size, tile)]
        return np.array(sizes, np.int64).reshape(-1, 2)

    def num_samples_of(self, split: str, num_images: int, tile: TileSettings | None) -> int:
        """Number of samples that prepare makes of the images of a split: about so many, unless all were read."""
        if tile is None:
            return num_images
        images, samples = (len(self.sizes(one, split)) for one in (None, tile))
        return round(num_images * samples / images) if images else num_images

    def masks_of(self, *splits: str) -> list[MaskFacts]:
        """Facts of the index masks of these splits."""
        masks = (facts.mask for facts in self.samples if facts.sample.split in splits)
        return [mask for mask in masks if mask is not None and not mask.num_colours]


def _sizes_of(size: tuple[int, int], tile: TileSettings | None) -> list[tuple[int, int]]:
    """Height and width of an image, or of each of its tiles."""
    return [one.window[2:] for one in tiles_in("", size, tile)] or [size]


def survey(samples: Sequence[Sample], data: DataSettings, quick: int | None = None) -> Survey:
    """Decode images and masks with `data.workers` threads.

    quick: read only this many samples, evenly spaced over the list
    """
    chosen = evenly_spaced(samples, quick or len(samples))
    start = time.monotonic()
    progress, all_facts = Progress(log, "doctor", len(chosen), "images"), []
    with ThreadPoolExecutor(data.workers or os.cpu_count()) as pool:
        for facts in pool.map(lambda sample: sample_facts(sample, data), chosen):
            all_facts.append(facts)
            progress.advance()
    return Survey(tuple(all_facts), len(samples), time.monotonic() - start)


def sample_facts(sample: Sample, data: DataSettings) -> SampleFacts:
    """Read one image and its mask. A file that cannot be read becomes a problem."""
    root = Path(data.root)
    image, mask, problems = None, None, []
    try:
        image = image_facts(root / sample.image, data)
    except ImageFileError as error:
        problems.append(str(error))
    if sample.mask is not None:
        try:
            mask = mask_facts(root / sample.mask, data)
        except ImageFileError as error:
            problems.append(str(error))
    return SampleFacts(sample, image, mask, tuple(problems))


def image_facts(path: Path, data: DataSettings) -> ImageFacts:
    """Read an image; raises ImageFileError."""
    rows = open_rows(path, PHOTOGRAPHS, data)
    shape = (*rows.header.size, 3)
    digest = hashlib.blake2b(digest_size=8, key=str(shape).encode())
    step = -(-shape[0] // rows.at_once)  # of an image that is read in bands, the hash is of some of its pixels
    brightest, seen = 0, []
    for pixels in rows.bands():
        digest.update(np.ascontiguousarray(pixels).data)
        brightest = max(brightest, int(pixels.max()))
        seen.append(pixels[::step, ::step])
    return ImageFacts(rows.header, brightest, digest.hexdigest(), perceptual_hash(np.concatenate(seen)))


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64-bit hash of an image, uint8 [H, W, 3] RGB: signs of its lowest cosine coefficients (imagehash.phash)."""
    bits: npt.NDArray[np.bool_] = imagehash.phash(Image.fromarray(pixels)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def mask_facts(path: Path, data: DataSettings) -> MaskFacts:
    """Read a mask; raises ImageFileError."""
    rows = open_rows(path, MASKS, data)
    try:
        pixels, colours, highest = mask_values(rows)
    except ImageFileError:
        raise
    except DatasetError:  # a colour image
        picture = load_mask(read_content(path), path, PixelLimit(data.max_pixels)).picture
        return _colour_facts(np.asarray(picture.convert("RGB")))
    return MaskFacts(rows.header.size, pixels, colours, highest)


def _colour_facts(pixels: npt.NDArray[np.uint8]) -> MaskFacts:
    """Facts of a mask saved as a colour image, uint8 [H, W, 3] RGB."""
    red, green, blue = pixels.astype(np.uint32).transpose(2, 0, 1)
    num_colours = len(np.unique(red << 16 | green << 8 | blue))
    return MaskFacts(
        _size(pixels), {}, num_colours=num_colours, is_grey=bool((red == green).all() and (green == blue).all())
    )


def _size(pixels: npt.NDArray[Any]) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    return height, width

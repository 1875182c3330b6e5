"""Annotates a few images, measures the time and the size of their maps, and compares them with masks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.annotators.agreement import Doubt
from pipeline.annotators.build import build_annotator
from pipeline.annotators.class_check import choose_labeled, class_doubts, refuse_wrong_classes
from pipeline.annotators.contract import Annotator, Images, Maps, checked_maps, stored_dtype
from pipeline.datasets import Sample, evenly_spaced, image_to_grid, mask_classes
from pipeline.errors import AnnotatorError, ImageFileError
from pipeline.resample import resize_bilinear
from pipeline.settings import DataSettings, Settings
from pipeline.sources.rows import MASKS, PHOTOGRAPHS, Form, P, open_rows
from pipeline.sources.tiles import sample_ids, tiles_in
from pipeline.store import SMALL, encode_chunk, encode_maps

TIMED_IMAGES = 4


class Trial(NamedTuple):
    """Measurements on a few images."""

    num_images: int
    seconds_before: float
    """Time to load the network and embed the class names."""
    seconds_per_image: float
    map_size: tuple[int, int]
    """Height and width of the maps as they are stored."""
    stored_bytes: float
    """Compressed size of one image's maps in the store."""
    doubts: tuple[Doubt, ...] = ()
    """Signs of a wrong class map in labeled images."""


def try_annotator(settings: Settings, samples: Sequence[Sample]) -> Trial:
    """Annotate a few images, after a warm-up image, and compare the maps of labeled images with their masks.

    raises: AnnotatorError if the annotator cannot be built, breaks its contract, no image can be read, or the classes
            of the maps are not those of the masks
    """
    start = time.monotonic()
    annotator = build_annotator(settings, sample_ids(samples, settings.data))
    loaded = time.monotonic()
    images = _readable(settings, evenly_spaced(samples, TIMED_IMAGES))
    if not images:
        raise AnnotatorError("no image could be read to try the annotator with; replace those that are unreadable")
    annotate(annotator, images[0], settings)
    start_of_images = time.monotonic()
    maps = [annotate(annotator, image, settings) for image in images]
    seconds = (time.monotonic() - start_of_images) / len(images)
    sizes = [compressed_bytes(m, annotator, settings) for m in maps]
    height, width = maps[0].shape[1:]
    doubts = _doubts(settings, samples, annotator)
    return Trial(len(images), loaded - start, seconds, (height, width), float(np.mean(sizes)), doubts)


def of_all(trials: Sequence[Trial], settings: Settings) -> Trial:
    """The trial of a single annotator; or those of all members of an ensemble together, which also stores their mean.

    The mean has the size of the largest maps; its bytes are counted before compression.
    """
    if not settings.members:
        return trials[0]
    sizes = [trial.map_size for trial in trials]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    if settings.annotate.resolution == "grid":
        height, width = settings.data.grid
    itemsize = 4 if settings.annotate.dtype == "float32" else 2
    mean_bytes = settings.data.num_classes * height * width * itemsize
    return Trial(
        trials[0].num_images,
        sum(trial.seconds_before for trial in trials),
        sum(trial.seconds_per_image for trial in trials),
        (height, width),
        sum(trial.stored_bytes for trial in trials) + mean_bytes,
        tuple(doubt for trial in trials for doubt in trial.doubts),
    )


def _doubts(settings: Settings, samples: Sequence[Sample], annotator: Annotator) -> tuple[Doubt, ...]:
    """Signs of a wrong class map; AnnotatorError for a certain one, unless it is allowed."""
    data = settings.data

    def mask_of(sample: Sample) -> npt.NDArray[np.uint8]:
        return mask_classes(_middle(sample.id, Path(data.root) / str(sample.mask), MASKS, data)[1].values, data)

    def maps_of(sample: Sample) -> Maps | None:
        images = _readable(settings, [sample])
        return annotate(annotator, images[0], settings) if images else None

    labeled = choose_labeled([s for s in samples if s.split == "labeled"], mask_of, annotator, data)
    found = class_doubts(labeled, maps_of, annotator, data)
    refuse_wrong_classes(found, annotator, settings)
    return tuple(found)


class Image(NamedTuple):
    """An image on the grid, uint8 [H, W, 3] RGB, and its id."""

    id: str
    pixels: Images


def annotate(annotator: Annotator, image: Image, settings: Settings) -> Maps:
    """Maps of an image, float32 [K, h, w], at the resolution at which they are stored."""
    maps = checked_maps(annotator, image.pixels[np.newaxis], [image.id], settings.data.num_classes)[0]
    return resize_bilinear(maps, settings.data.grid) if settings.annotate.resolution == "grid" else maps


def compressed_bytes(maps: Maps, annotator: Annotator, settings: Settings) -> int:
    """Compressed size in bytes of maps, float32 [K, h, w], in the store."""
    dtype = stored_dtype(annotator, settings.annotate)
    return len(encode_chunk(encode_maps(maps, dtype), SMALL))


def _middle(sample_id: str, path: Path, form: Form[P], data: DataSettings) -> tuple[str, P]:
    """Id and content of an image or a mask; of one that is cut, those of the tile in the middle.

    raises: as `open_rows` and the decoder
    """
    rows = open_rows(path, form, data)
    tiles = tiles_in(sample_id, rows.header.size, data.tile)
    if not tiles:
        return sample_id, rows.read(0, rows.header.size[0])
    tile = tiles[len(tiles) // 2]
    return tile.id, rows.window(tile.window)


def _readable(settings: Settings, samples: Sequence[Sample]) -> list[Image]:
    images, data = [], settings.data
    for sample in samples:
        try:
            sample_id, pixels = _middle(sample.id, Path(data.root) / sample.image, PHOTOGRAPHS, data)
            images.append(Image(sample_id, image_to_grid(pixels, data.grid)))
        except ImageFileError:  # the survey reports it
            continue
    return images

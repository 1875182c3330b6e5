"""Makes the maps that are not in the shared cache, beside other processes that do the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from pipeline.annotators.contract import Maps, checked_maps
from pipeline.annotators.reading import Batch, read_batches
from pipeline.annotators.work import Work
from pipeline.errors import AnnotatorError
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.store.map_cache import SECONDS_TO_WAIT

log = logging.getLogger(__name__)


class Destination(Protocol):
    """What uses the maps when they are in the cache. Images are numbered as in `Work.samples`."""

    def take(self, image: int) -> bool:
        """Use the cached maps of an image; False if there are none, or they are damaged."""

    def fail(self, image: int) -> None:
        """Record that an image has no maps."""


def make_maps(
    work: Work, pending: Sequence[int], shape: Sequence[int], destination: Destination, what: str = "annotate"
) -> dict[str, str]:
    """Annotate the pending images; returns the reasons of failures by image id.

    shape:  K, h, w of the maps of an image, as they are stored
    what:   beginning of the log's lines
    raises: AnnotatorError if too many images fail
    """
    progress = Progress(log, what, len(work.samples), "images", done=len(work.samples) - len(pending))
    failed: dict[str, str] = {}

    def take_others(image: int) -> bool:
        is_there = destination.take(image)
        progress.advance(int(is_there))
        return is_there

    with work.cache as cache:
        batches = _batches(work, pending, take_others)
        for batch in read_batches(work.index, work.samples, batches, work.settings.data.grid):
            errors = batch.errors | _annotate_batch(work, shape, batch)
            for i, reason in errors.items():
                log.warning("%s: %s failed: %s", what, work.samples[i].id, reason)
                destination.fail(i)
                failed[work.samples[i].id] = reason
            for i in batch.indices:
                if i not in errors:
                    destination.take(i)
            cache.release(work.rows[i].image_digest for i in (*batch.indices, *batch.errors))
            _refuse_many_failures(failed, work)
            progress.advance(len(batch.indices) + len(batch.errors))
    return failed


def _batches(work: Work, pending: Sequence[int], take: Callable[[int], bool]) -> Iterator[list[int]]:
    """Images that this process has claimed, in batches.

    An empty batch lets the caller finish those it has, before this waits for the images that other processes annotate.
    """
    size, cache = work.settings.annotate.batch_size, work.cache
    left = list(pending)
    has_waited = False
    while left:
        batch: list[int] = []
        others: list[int] = []
        for i in left:
            digest = work.rows[i].image_digest
            if not cache.claim(digest):
                others.append(i)
            elif take(i):  # another process has made it
                cache.release([digest])
            else:
                batch.append(i)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
        if others:
            yield []
            if not has_waited:
                has_waited = True
                log.info("annotate: waiting for %d maps that other processes make", len(others))
            time.sleep(SECONDS_TO_WAIT)
        left = others


def _annotate_batch(work: Work, shape: Sequence[int], batch: Batch) -> dict[int, str]:
    """Add the maps of a batch to the cache; returns reasons of failures by index. A failed batch is split."""
    if not batch.indices:
        return {}
    try:
        maps = checked_maps(work.annotator, np.stack(batch.images), batch.ids, shape[0])
        _refuse_another_size(maps, shape, work)
    except Exception as error:  # an annotator may raise anything; the other images are still annotated
        if len(batch.indices) == 1:
            return {batch.indices[0]: f"{type(error).__name__}: {error}"}
        images = zip(batch.indices, batch.ids, batch.images, strict=True)
        single = [Batch([i], [sample_id], [image], {}) for i, sample_id, image in images]
        return {i: why for one in single for i, why in _annotate_batch(work, shape, one).items()}
    for i, image_maps in zip(batch.indices, maps, strict=True):
        work.cache.add(work.rows[i].image_digest, work.encoded(image_maps))
    return {}


def _refuse_another_size(maps: Maps, shape: Sequence[int], work: Work) -> None:
    """AnnotatorError if maps that are stored as they are have another size than those of the first image."""
    stored = tuple(shape[1:])
    if work.settings.annotate.resolution == "annotator" and maps.shape[-2:] != stored:
        raise AnnotatorError(
            f"annotator {work.annotator.name} returned maps of {maps.shape[-2]} x {maps.shape[-1]}, but those of the "
            f"first image have {stored[0]} x {stored[1]}; fix its __call__, or set annotate.resolution: grid"
        )


def _refuse_many_failures(failed: dict[str, str], work: Work) -> None:
    most, num_images = work.settings.annotate.max_failed_fraction, len(work.index.of("labeled", "unlabeled"))
    if len(failed) > most * num_images:  # of all images, of which these may be a part
        first, reason = next(iter(failed.items()))
        raise AnnotatorError(
            f"{len(failed)} of {num_images} images failed, more than annotate.max_failed_fraction "
            f"{most}; fix the cause or raise it, then run "
            f"{Run(work.settings).command('annotate')}: finished maps are kept. The first image, {first}: {reason}"
        )

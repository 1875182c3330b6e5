"""Makes the maps that are neither in a store nor in the shared cache, beside other processes that do the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline.annotators.contract import Maps, checked_maps
from pipeline.annotators.reading import Batch, read_batches
from pipeline.annotators.work import Work
from pipeline.errors import AnnotatorError
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.store import DONE, FAILED, ProbabilityStore
from pipeline.store.map_cache import SECONDS_TO_WAIT

log = logging.getLogger(__name__)


def take_from_cache(store: ProbabilityStore, work: Work) -> None:
    """Link the maps of images that are not done from the cache into the store."""
    pending = np.flatnonzero(store.status != DONE)
    found = [i for i in pending if work.cache.give(work.rows[i].image_digest, store.chunk(i))]
    if found:
        store.mark_all(np.array(found), DONE)
    num_shared = len(found) - work.cache.num_added
    if num_shared > 0:
        log.info("annotate: %d of %d maps were in %s already", num_shared, len(work.samples), work.cache.folder)


def make_maps(store: ProbabilityStore, work: Work) -> dict[str, str]:
    """Annotate the images that are not done; returns the reasons of failures by image id."""
    pending = [int(i) for i in np.flatnonzero(store.status != DONE)]
    progress = Progress(log, "annotate", len(work.samples), "images", done=len(work.samples) - len(pending))
    failed: dict[str, str] = {}

    def on_found(i: int) -> None:
        store.mark(i, DONE)
        progress.advance()

    with work.cache as cache:
        for batch in read_batches(work.index, work.samples, _batches(store, work, pending, on_found), store.grid):
            errors = batch.errors | _annotate_batch(store, work, batch)
            for i, reason in errors.items():
                log.warning("annotate: %s failed: %s", work.samples[i].id, reason)
                store.mark(i, FAILED)
                failed[work.samples[i].id] = reason
            cache.release(work.rows[i].image_digest for i in (*batch.indices, *batch.errors))
            _refuse_many_failures(failed, work)
            progress.advance(len(batch.indices) + len(batch.errors))
    return failed


def _batches(
    store: ProbabilityStore, work: Work, pending: Sequence[int], on_found: Callable[[int], None]
) -> Iterator[list[int]]:
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
            elif cache.give(digest, store.chunk(i)):  # another process has made it
                cache.release([digest])
                on_found(i)
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


def _annotate_batch(store: ProbabilityStore, work: Work, batch: Batch) -> dict[int, str]:
    """Write the maps of a batch; returns reasons of failures by index. A failed batch is split."""
    if not batch.indices:
        return {}
    try:
        maps = checked_maps(work.annotator, np.stack(batch.images), batch.ids, len(store.class_names))
        _refuse_another_size(maps, store, work)
    except Exception as error:  # an annotator may raise anything; the other images are still annotated
        if len(batch.indices) == 1:
            return {batch.indices[0]: f"{type(error).__name__}: {error}"}
        images = zip(batch.indices, batch.ids, batch.images, strict=True)
        single = [Batch([i], [sample_id], [image], {}) for i, sample_id, image in images]
        return {i: why for one in single for i, why in _annotate_batch(store, work, one).items()}
    for i, image_maps in zip(batch.indices, maps, strict=True):
        work.cache.add(work.rows[i].image_digest, work.encoded(image_maps), store.chunk(i))
        store.mark(i, DONE)
    return {}


def _refuse_another_size(maps: Maps, store: ProbabilityStore, work: Work) -> None:
    """AnnotatorError if maps that are stored as they are have another size than those of the first image."""
    stored = store.maps.shape[-2:]
    if work.settings.annotate.resolution == "annotator" and maps.shape[-2:] != stored:
        raise AnnotatorError(
            f"annotator {work.annotator.name} returned maps of {maps.shape[-2]} x {maps.shape[-1]}, but those of the "
            f"first image have {stored[0]} x {stored[1]}; fix its __call__, or set annotate.resolution: grid"
        )


def _refuse_many_failures(failed: dict[str, str], work: Work) -> None:
    most = work.settings.annotate.max_failed_fraction
    if len(failed) > most * len(work.samples):
        first, reason = next(iter(failed.items()))
        raise AnnotatorError(
            f"{len(failed)} of {len(work.samples)} images failed, more than annotate.max_failed_fraction "
            f"{most}; fix the cause or raise it, then run "
            f"{Run(work.settings).command('annotate')}: finished maps are kept. The first image, {first}: {reason}"
        )

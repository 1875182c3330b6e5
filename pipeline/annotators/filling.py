"""Fills a store with the maps of an annotator: creates, restores or resumes it, image by image."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from pipeline.annotators.agreement import Doubt
from pipeline.annotators.class_check import Labeled, choose_labeled, class_doubts, refuse_wrong_classes
from pipeline.annotators.contract import Annotator
from pipeline.annotators.making import make_maps, take_from_cache
from pipeline.annotators.unchecked import Unchecked
from pipeline.annotators.work import Work
from pipeline.datasets import Sample, SampleIndex
from pipeline.errors import StoreError
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import (
    DONE,
    MapCache,
    ProbabilityStore,
    create_store,
    open_probabilities,
    restore_lost_facts,
    restore_store,
    store_state,
)

log = logging.getLogger(__name__)

CHECK = "check"  # the claim of the process that compares maps with masks


class Filled(NamedTuple):
    """A finished store, the annotator that made its maps, why images failed, and signs of a wrong class map.

    cache: where its maps are shared, with the number of those that were made now
    """

    store: ProbabilityStore
    annotator: Annotator
    failed: dict[str, str]
    doubts: list[Doubt]
    cache: MapCache


def fill_store(settings: Settings, index: SampleIndex, annotator: Annotator, path: Path) -> Filled:
    """Fill a store with the maps of an annotator, resuming where an earlier call stopped.

    Maps that are in the shared cache are taken from there, and those that are made are added to it.

    raises: AnnotatorError if its classes are not those of the masks, or too many images fail; StoreError if the disk is
            too small. Finished maps are kept in every case
    """
    work = Work(settings, index, _in_cache_order(path, index.of("labeled", "unlabeled")), annotator)
    labeled = choose_labeled(index.of("labeled"), lambda one: index.mask(one, settings.data), annotator, settings.data)
    store = _open_or_create(work, labeled, path)
    failed: dict[str, str] = store.state.get("failed", {})
    if not store.state["complete"]:
        take_from_cache(store, work)
        failed = make_maps(store, work)
    else:
        log.info("annotate: all maps are in %s already; to make them again, delete it and %s", path, work.cache.folder)
    doubts = class_doubts(labeled, store.stored_maps(), annotator, settings.data)
    refuse_wrong_classes(doubts, annotator, settings)
    if not store.state["complete"]:
        store.finish(failed=failed)
    return Filled(store, annotator, failed, doubts, work.cache)


def _in_cache_order(path: Path, samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples, in the order of the cache if it has the same ones: a new mask moves its image in the list only."""
    try:
        ids = open_probabilities(path, writable=True).sample_ids if store_state(path) else []
    except StoreError:  # lost ids are written again from the list
        return samples
    index = {sample_id: i for i, sample_id in enumerate(ids)}
    if index.keys() != {sample.id for sample in samples}:
        return samples
    return sorted(samples, key=lambda sample: index[sample.id])


def _open_or_create(work: Work, labeled: Sequence[Labeled], path: Path) -> ProbabilityStore:
    """The store for these samples. It replaces one for other images or settings, whose maps are kept in the cache."""
    run, unchecked = Run(work.settings), Unchecked(work)

    def facts() -> dict[str, Any]:
        return _facts(work, unchecked.shape)

    restore_lost_facts(path, "probabilities", facts, work.rows, lambda: run.begin("annotate"))
    state = store_state(path)
    if state.get("fingerprint") != work.fingerprint:
        if state:
            _keep_maps(path, state, work.settings)
        with work.cache as cache:
            cache.claim_or_wait(CHECK)  # another process may annotate the same images to check their classes
            _check_classes(work, labeled, unchecked)
            _check_disk(unchecked.row_bytes, sum(not cache.has(row.image_digest) for row in work.rows), path)
            run.begin("annotate")
            unchecked.add_to_cache(facts())
        create_store(path, "probabilities", facts(), work.rows)
    elif not state["complete"]:
        run.begin("annotate")
        restore_store(path, work.rows)
    return open_probabilities(path, writable=True)


def _facts(work: Work, shape: Sequence[int]) -> dict[str, Any]:
    """Facts of the store. shape: K, h, w of the maps of an image, as they are stored"""
    return {
        "fingerprint": work.fingerprint,
        "method": work.method,
        "annotator": work.annotator.name,
        "space": work.annotator.space,
        "grid": work.settings.data.grid,
        "class_names": work.settings.data.class_names,
        "class_prompts": work.settings.data.class_prompts,
        "maps": list(shape),
        "dtype": work.dtype,
    }


def _keep_maps(path: Path, state: Mapping[str, Any], settings: Settings) -> None:
    """Add the maps of a store to the cache, unless they are there; StoreError if its list of images is damaged."""
    store = open_probabilities(path, writable=True)
    cache = MapCache.of(settings.cache_folder, state["annotator"], state["method"])
    cache.write_facts(state)
    status = store.status
    for i, digest in enumerate(store.image_digests):
        if status[i] == DONE:
            cache.adopt(digest, store.chunk(i))


def _check_classes(work: Work, labeled: Sequence[Labeled], unchecked: Unchecked) -> None:
    """Compare the maps of labeled images with their masks; AnnotatorError for a wrong class map."""
    progress = Progress(log, "annotate: comparing maps with masks", len(labeled), "labeled images")

    def with_progress(sample: Sample) -> npt.NDArray[Any] | None:
        maps = unchecked.maps_of(sample)
        progress.advance()
        return maps

    doubts = class_doubts(labeled, with_progress, work.annotator, work.settings.data)
    refuse_wrong_classes(doubts, work.annotator, work.settings)
    for doubt in doubts:
        log.warning("annotate: %s", doubt.text)


def _check_disk(row_bytes: int, num_images: int, path: Path) -> None:
    """Log the size of the maps to make, estimated from those of one image; StoreError if the disk is too small."""
    if not num_images:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = row_bytes * num_images / 1e9, shutil.disk_usage(path.parent).free / 1e9
    log.info(
        "annotate: about %.2f GB for %d images (%.0f kB each); %.0f GB free",
        needed,
        num_images,
        row_bytes / 1e3,
        free,
    )
    if needed > free:
        raise StoreError(
            f"{path} needs about {needed:.1f} GB, but {free:.1f} GB are free; free some, set `results` to a larger "
            "disk, or choose a smaller data.grid or annotate.resolution"
        )

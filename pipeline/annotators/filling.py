"""Fills a store, or the shared cache alone, with the maps of an annotator, resuming image by image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.annotators.agreement import Doubt
from pipeline.annotators.class_check import class_doubts, refuse_wrong_classes
from pipeline.annotators.contract import Annotator
from pipeline.annotators.making import make_maps
from pipeline.annotators.unchecked import Unchecked, check_first
from pipeline.annotators.work import Work
from pipeline.datasets import Sample, SampleIndex
from pipeline.errors import StoreError
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.shards import Shard
from pipeline.store import (
    DONE,
    FAILED,
    MapCache,
    ProbabilityStore,
    create_store,
    open_probabilities,
    restore_lost_facts,
    restore_store,
    store_state,
)

log = logging.getLogger(__name__)


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
    store = _open_or_create(work, path)
    failed: dict[str, str] = store.state.get("failed", {})
    if not store.state["complete"]:
        _take_from_cache(store, work)
        pending = [int(i) for i in np.flatnonzero(store.status != DONE)]
        failed = make_maps(work, pending, store.maps.shape[1:], _IntoStore(store, work))
        work.cache.remove_ended_claims()
    else:
        log.info("annotate: all maps are in %s already; to make them again, delete it and %s", path, work.cache.folder)
    doubts = class_doubts(work.labeled, store.stored_maps(), annotator, settings.data)
    refuse_wrong_classes(doubts, annotator, settings)
    if not store.state["complete"]:
        store.finish(failed=failed)
    return Filled(store, annotator, failed, doubts, work.cache)


def fill_shard(settings: Settings, index: SampleIndex, annotator: Annotator, shard: Shard, path: Path) -> int:
    """Add the maps of a part of the images to the shared cache, and to no store; returns how many were made.

    path:   store of an earlier run, whose maps are used if they are no longer in the cache
    raises: as `fill_store`
    """
    work = Work(settings, index, shard.part(index.of("labeled", "unlabeled")), annotator)
    if state := store_state(path):
        with suppress(StoreError):  # a damaged store is restored by `fill_store`
            _keep_maps(path, state, settings)
    if all(work.cache.has(row.image_digest) for row in work.rows):
        return 0
    unchecked = Unchecked(work)
    check_first(work, unchecked, Run(settings).folder.path)
    pending = [i for i, row in enumerate(work.rows) if not work.cache.has(row.image_digest)]
    make_maps(work, pending, unchecked.shape, _IntoCache(work), f"annotate {shard.name}")
    return work.cache.num_added


class _IntoCache(NamedTuple):
    """The cache alone as the destination of maps. Nothing records failures: `annotate` tries the images once more."""

    work: Work

    def take(self, image: int) -> bool:
        return self.work.cache.read(self.work.rows[image].image_digest) is not None

    def fail(self, image: int) -> None:
        pass


class _IntoStore(NamedTuple):
    """A store as the destination of maps: a chunk of it is a link to the row of the cache."""

    store: ProbabilityStore
    work: Work

    def take(self, image: int) -> bool:
        is_there = self.work.cache.give(self.work.rows[image].image_digest, self.store.chunk(image))
        if is_there:
            self.store.mark(image, DONE)
        return is_there

    def fail(self, image: int) -> None:
        self.store.mark(image, FAILED)


def _take_from_cache(store: ProbabilityStore, work: Work) -> None:
    """Link the maps of images that are not done from the cache into the store."""
    pending = {int(i): work.rows[i].image_digest for i in np.flatnonzero(store.status != DONE)}
    work.cache.fetch(pending.values())
    found = [i for i, row in pending.items() if work.cache.has(row) and work.cache.give(row, store.chunk(i))]
    if found:
        store.mark_all(np.array(found), DONE)
    num_shared = len(found) - work.cache.num_added
    if num_shared > 0:
        log.info("annotate: %d of %d maps were in %s already", num_shared, len(work.samples), work.cache.folder)


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


def _open_or_create(work: Work, path: Path) -> ProbabilityStore:
    """The store for these samples. It replaces one for other images or settings, whose maps are kept in the cache."""
    run, unchecked = Run(work.settings), Unchecked(work)

    def facts() -> dict[str, Any]:
        return {"fingerprint": work.fingerprint, **work.facts(unchecked.shape)}

    restore_lost_facts(path, "probabilities", facts, work.rows, lambda: run.begin("annotate"))
    state = store_state(path)
    if state.get("fingerprint") != work.fingerprint:
        if state:
            _keep_maps(path, state, work.settings)
        check_first(work, unchecked, path)
        run.begin("annotate")
        create_store(path, "probabilities", facts(), work.rows)
    elif not state["complete"]:
        run.begin("annotate")
        restore_store(path, work.rows)
    return open_probabilities(path, writable=True)


def _keep_maps(path: Path, state: Mapping[str, Any], settings: Settings) -> None:
    """Add the maps of a store to the cache, unless they are there; StoreError if its list of images is damaged."""
    store = open_probabilities(path, writable=True)
    cache = MapCache.of(settings.cache_folder, settings.cache_url, state["annotator"], state["method"])
    cache.write_facts(state)
    status = store.status
    for i, digest in enumerate(store.image_digests):
        if status[i] == DONE:
            cache.adopt(digest, store.chunk(i))

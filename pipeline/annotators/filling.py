"""Fills a store with the maps of an annotator: creates, restores or resumes it, image by image."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.annotators.agreement import Doubt
from pipeline.annotators.class_check import Labeled, choose_labeled, class_doubts, live_maps, refuse_wrong_classes
from pipeline.annotators.contract import Annotator, Maps, checked_maps, stored_dtype
from pipeline.annotators.first_maps import first_maps
from pipeline.annotators.reading import Batch, read_batches
from pipeline.datasets import Sample, SampleIndex
from pipeline.errors import AnnotatorError, StoreError
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.resample import resize_bilinear
from pipeline.run import Run
from pipeline.settings import AnnotateSettings, Settings
from pipeline.store import (
    DONE,
    FAILED,
    ProbabilityStore,
    create_store,
    encode_chunk,
    encode_maps,
    open_probabilities,
    replace_images,
    restore_lost_facts,
    restore_replaced,
    restore_store,
    store_state,
)

log = logging.getLogger(__name__)

CACHE_VERSION = 3  # raise it when the same annotator and image would be cached differently


class Filled(NamedTuple):
    """A finished store, the annotator that made its maps, why images failed, and signs of a wrong class map."""

    store: ProbabilityStore
    annotator: Annotator
    failed: dict[str, str]
    doubts: list[Doubt]


def fill_store(settings: Settings, index: SampleIndex, annotator: Annotator, path: Path) -> Filled:
    """Fill a store with the maps of an annotator, resuming where an earlier call stopped.

    raises: AnnotatorError if its classes are not those of the masks, or too many images fail; StoreError if the store
            contains maps of other settings, or the disk is too small. Finished maps are kept in every case
    """
    restore_replaced(path)
    samples = _in_cache_order(path, index.of("labeled", "unlabeled"))
    labeled = choose_labeled(index.of("labeled"), lambda one: index.mask(one, settings.data), annotator, settings.data)
    store = _open_or_create(settings, index, samples, annotator, labeled, path)
    failed: dict[str, str] = store.state.get("failed", {})
    if not store.state["complete"]:
        failed = _fill(store, index, samples, annotator, settings)
    else:
        log.info("annotate: all maps are in %s already; delete it to make them again", store.path)
    doubts = class_doubts(labeled, store.stored_maps(), annotator, settings.data)
    refuse_wrong_classes(doubts, annotator, settings)
    if not store.state["complete"]:
        store.finish(failed=failed)
    return Filled(store, annotator, failed, doubts)


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


def _rows_of(samples: Sequence[Sample], annotator: Annotator) -> Sequence[Sample]:
    """The samples as the cache lists them. Their digests change whenever the maps of the image could change.

    For most annotators this is the digest of the image; for one with `image_fingerprint`, it includes that.
    """
    if not hasattr(annotator, "image_fingerprint"):
        return samples

    def digest(sample: Sample) -> str:
        return fingerprint({"image": sample.image_digest, "maps": annotator.image_fingerprint(sample.id)})

    return [replace(sample, image_digest=digest(sample)) for sample in samples]


def _method_fingerprint(settings: Settings, annotator: Annotator) -> str:
    """Fingerprint of everything that the maps of an image depend on besides the image. Masks are not included."""
    return fingerprint(
        {
            "version": CACHE_VERSION,
            "annotator": annotator.fingerprint,
            "prompts": settings.data.class_prompts,
            "classes": settings.data.class_names,
            "grid": settings.data.grid,
            "resolution": settings.annotate.resolution,
            "dtype": stored_dtype(annotator, settings.annotate),
        }
    )


def _cache_fingerprint(method: str, samples: Sequence[Sample]) -> str:
    """Fingerprint of everything that the cached maps depend on."""
    return fingerprint({"method": method, "images": [[sample.id, sample.image_digest] for sample in samples]})


def _open_or_create(
    settings: Settings,
    index: SampleIndex,
    samples: Sequence[Sample],
    annotator: Annotator,
    labeled: Sequence[Labeled],
    path: Path,
) -> ProbabilityStore:
    """The store for these samples. A store for other images keeps the maps of the images in both lists."""
    run, method = Run(settings), _method_fingerprint(settings, annotator)
    rows = _rows_of(samples, annotator)
    identity = {"fingerprint": _cache_fingerprint(method, rows), "method": method}

    def first() -> Maps:
        maps = first_maps(index, samples, annotator, settings.data)
        return resize_bilinear(maps, settings.data.grid) if settings.annotate.resolution == "grid" else maps

    def facts() -> dict[str, Any]:
        return _facts(settings, annotator, identity, first())

    restore_lost_facts(path, "probabilities", facts, rows, lambda: run.begin("annotate"))
    state = store_state(path)
    is_outdated = bool(state) and state["method"] != method
    if not state or (is_outdated and settings.members):  # a mean of stored maps costs little
        maps = first()
        _check_classes(settings, index, annotator, labeled)
        _create(settings, annotator, identity, maps, rows, path)
    elif is_outdated:
        raise StoreError(
            f"{path} holds maps of other annotator settings (fingerprint {state['method']}, now {method}). To keep it, "
            f"give this run another name: {run.command('annotate', name='NEW')}. To make it again: "
            f"rm -r {shlex.quote(str(path))} && {run.command('annotate', rerun='annotate')}"
        )
    elif state["fingerprint"] != identity["fingerprint"]:
        run.begin("annotate")
        replace_images(path, identity["fingerprint"], rows)
    elif not state["complete"]:
        run.begin("annotate")
        restore_store(path, rows)
    return open_probabilities(path, writable=True)


def _check_classes(settings: Settings, index: SampleIndex, annotator: Annotator, labeled: Sequence[Labeled]) -> None:
    """Annotate the labeled images, and compare the maps with their masks; AnnotatorError for a wrong class map."""
    progress = Progress(log, "annotate: comparing maps with masks", len(labeled), "labeled images")
    maps_of = live_maps(index, annotator, settings.data)

    def with_progress(sample: Sample) -> Maps | None:
        maps = maps_of(sample)
        progress.advance()
        return maps

    doubts = class_doubts(labeled, with_progress, annotator, settings.data)
    refuse_wrong_classes(doubts, annotator, settings)
    for doubt in doubts:
        log.warning("annotate: %s", doubt.text)


def _create(
    settings: Settings,
    annotator: Annotator,
    identity: Mapping[str, str],
    maps: Maps,
    samples: Sequence[Sample],
    path: Path,
) -> None:
    """Create the empty cache, with the shape and the compressed size of the maps of one image."""
    _check_disk(encode_maps(maps, stored_dtype(annotator, settings.annotate)), len(samples), path)
    Run(settings).begin("annotate")
    create_store(path, "probabilities", _facts(settings, annotator, identity, maps), samples)


def _facts(settings: Settings, annotator: Annotator, identity: Mapping[str, str], maps: Maps) -> dict[str, Any]:
    """Facts of the cache. identity: its fingerprint and its method; maps: of one image, as they are stored"""
    return {
        **identity,
        "annotator": annotator.name,
        "space": annotator.space,
        "grid": settings.data.grid,
        "class_names": settings.data.class_names,
        "class_prompts": settings.data.class_prompts,
        "maps": list(maps.shape),
        "dtype": stored_dtype(annotator, settings.annotate),
    }


def _check_disk(encoded: np.ndarray[Any, Any], num_images: int, path: Path) -> None:
    """Log the size estimated from the maps of one image; StoreError if it does not fit on the disk."""
    image_bytes = len(encode_chunk(encoded))
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = image_bytes * num_images / 1e9, shutil.disk_usage(path.parent).free / 1e9
    log.info(
        "annotate: about %.2f GB for %d images (%.0f kB each); %.0f GB free",
        needed,
        num_images,
        image_bytes / 1e3,
        free,
    )
    if needed > free:
        raise StoreError(
            f"{path} needs about {needed:.1f} GB, but {free:.1f} GB are free; free some, set `results` to a larger "
            "disk, or choose a smaller data.grid or annotate.resolution"
        )


def _fill(
    store: ProbabilityStore,
    index: SampleIndex,
    samples: Sequence[Sample],
    annotator: Annotator,
    settings: Settings,
) -> dict[str, str]:
    """Annotate the images that are not done; returns the reasons of failures by image id."""
    pending = [int(i) for i in np.flatnonzero(store.status != DONE)]
    progress = Progress(log, "annotate", len(samples), "images", done=len(samples) - len(pending))
    failed: dict[str, str] = {}
    for batch in read_batches(index, samples, pending, settings.annotate.batch_size, store.grid):
        errors = batch.errors | _annotate_batch(store, annotator, batch, settings.annotate)
        for i, reason in errors.items():
            log.warning("annotate: %s failed: %s", samples[i].id, reason)
            store.mark(i, FAILED)
            failed[samples[i].id] = reason
        _refuse_many_failures(failed, len(samples), settings)
        progress.advance(len(batch.indices) + len(batch.errors))
    return failed


def _annotate_batch(
    store: ProbabilityStore, annotator: Annotator, batch: Batch, settings: AnnotateSettings
) -> dict[int, str]:
    """Write the maps of a batch; returns reasons of failures by index. A failed batch is split."""
    if not batch.indices:
        return {}
    try:
        maps = checked_maps(annotator, np.stack(batch.images), batch.ids, len(store.class_names))
        _refuse_another_size(maps, store, annotator, settings)
    except Exception as error:  # an annotator may raise anything; the other images are still annotated
        if len(batch.indices) == 1:
            return {batch.indices[0]: f"{type(error).__name__}: {error}"}
        images = zip(batch.indices, batch.ids, batch.images, strict=True)
        single = [Batch([i], [sample_id], [image], {}) for i, sample_id, image in images]
        return {i: why for one in single for i, why in _annotate_batch(store, annotator, one, settings).items()}
    for i, image_maps in zip(batch.indices, maps, strict=True):
        store.write(i, resize_bilinear(image_maps, store.grid) if settings.resolution == "grid" else image_maps)
        store.mark(i, DONE)
    return {}


def _refuse_another_size(maps: Maps, store: ProbabilityStore, annotator: Annotator, settings: AnnotateSettings) -> None:
    """AnnotatorError if maps that are stored as they are have another size than those of the first image."""
    stored = store.array("prob").shape[-2:]
    if settings.resolution == "annotator" and maps.shape[-2:] != stored:
        raise AnnotatorError(
            f"annotator {annotator.name} returned maps of {maps.shape[-2]} x {maps.shape[-1]}, but those of the first "
            f"image have {stored[0]} x {stored[1]}; fix its __call__, or set annotate.resolution: grid"
        )


def _refuse_many_failures(failed: dict[str, str], num_images: int, settings: Settings) -> None:
    if len(failed) > settings.annotate.max_failed_fraction * num_images:
        first, reason = next(iter(failed.items()))
        raise AnnotatorError(
            f"{len(failed)} of {num_images} images failed, more than annotate.max_failed_fraction "
            f"{settings.annotate.max_failed_fraction}; fix the cause or raise it, then run "
            f"{Run(settings).command('annotate')}: finished maps are kept. The first image, {first}: {reason}"
        )

"""Another list of images for a probability store: the maps of images that it has already are kept."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets import Sample
from pipeline.store.arrays import DONE
from pipeline.store.creation import create_store
from pipeline.store.metadata import store_exists
from pipeline.store.probabilities import ProbabilityStore, open_probabilities

log = logging.getLogger(__name__)


def replace_images(path: Path, fingerprint: str, samples: Sequence[Sample]) -> None:
    """Put a store for these samples in the place of one for others, made by the same annotator and settings.

    Images with a digest that the old store has maps of keep their maps, under whatever id. The old store stays in
    place until the new one has all of them; `restore_replaced` finishes a replacement that was killed.

    raises: StoreError if the list of images of the old store is damaged
    """
    old = open_probabilities(path, writable=True)
    facts = {name: value for name, value in old.state.items() if name not in ("kind", "complete", "failed", "num_done")}
    coming = _coming(path)
    create_store(coming, "probabilities", facts | {"fingerprint": fingerprint}, samples)
    new = open_probabilities(coming, writable=True)
    num_kept = _link_maps(old, new, samples)
    log.info("annotate: the maps of %d of %d images are kept", num_kept, len(samples))
    _swap(path)


def restore_replaced(path: Path) -> None:
    """Finish a replacement that was killed after it had moved the old store away."""
    if not store_exists(path) and store_exists(_coming(path)):
        _coming(path).rename(path)
    shutil.rmtree(_going(path), ignore_errors=True)


def _link_maps(old: ProbabilityStore, new: ProbabilityStore, samples: Sequence[Sample]) -> int:
    """Give the new store the maps of the images that both have; returns their number."""
    status = old.status
    at = {digest: i for i, digest in enumerate(old.image_digests) if status[i] == DONE and old.has_chunk("prob", i)}
    pairs = [(at[sample.image_digest], i) for i, sample in enumerate(samples) if sample.image_digest in at]
    for source, target in pairs:
        place = _chunk(new, target)
        place.parent.mkdir(parents=True)
        _link(_chunk(old, source), place)
    new.mark(np.array([target for _, target in pairs], np.intp), DONE)
    return len(pairs)


def _chunk(store: ProbabilityStore, index: int) -> Path:
    return store.path / f"prob/c/{index}/0/0/0"


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no hard links. No chunk is changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _swap(path: Path) -> None:
    shutil.rmtree(_going(path), ignore_errors=True)
    path.rename(_going(path))
    _coming(path).rename(path)
    shutil.rmtree(_going(path))


def _coming(path: Path) -> Path:
    return path.with_name(f"{path.name}.coming")


def _going(path: Path) -> Path:
    return path.with_name(f"{path.name}.going")

"""A new list of images for a probability store, which keeps the maps of the images in both lists."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets import Sample
from pipeline.files import going_of, remove_folder
from pipeline.store.arrays import DONE
from pipeline.store.creation import create_store
from pipeline.store.metadata import store_exists
from pipeline.store.probabilities import ProbabilityStore, open_probabilities

log = logging.getLogger(__name__)


def replace_images(path: Path, fingerprint: str, samples: Sequence[Sample]) -> None:
    """Replace a store by one for these samples, made by the same annotator with the same settings.

    Images whose digests are in the old store keep their maps, even if their ids have changed. The old store is
    replaced when the new one has all of these maps; `restore_replaced` finishes a replacement that was killed.

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
    remove_folder(going_of(path))


def _link_maps(old: ProbabilityStore, new: ProbabilityStore, samples: Sequence[Sample]) -> int:
    """Link the maps of the images that both stores have into the new store; returns their number."""
    status = old.status
    old_index = {
        digest: i for i, digest in enumerate(old.image_digests) if status[i] == DONE and old.has_chunk("prob", i)
    }
    pairs = [
        (old_index[sample.image_digest], i) for i, sample in enumerate(samples) if sample.image_digest in old_index
    ]
    for before, after in pairs:
        chunk = _chunk(new, after)
        chunk.parent.mkdir(parents=True)
        _link(_chunk(old, before), chunk)
    new.mark_all(np.array([after for _, after in pairs], np.intp), DONE)
    return len(pairs)


def _chunk(store: ProbabilityStore, index: int) -> Path:
    return store.path / f"prob/c/{index}/0/0/0"


def _link(path: Path, link: Path) -> None:
    """Make a hard link, or a copy where the file system has no hard links. Chunks are replaced, never changed."""
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)


def _swap(path: Path) -> None:
    remove_folder(going_of(path))
    path.rename(going_of(path))
    _coming(path).rename(path)
    remove_folder(going_of(path))


def _coming(path: Path) -> Path:
    return path.with_name(f"{path.name}.coming")

"""Creating a store with its metadata and coordinates, and resuming an unfinished one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.files import going_of, remove_folder, replacing_folder
from pipeline.folder import STAGE_OF
from pipeline.store.arrays import LAYOUT, OUTCOMES
from pipeline.store.group import Store, refuse_lost_root
from pipeline.store.metadata import (
    ROOT,
    FactsError,
    recorded_facts,
    remake_command,
    store_exists,
    store_state,
    write_metadata,
)

log = logging.getLogger(__name__)


def create_store(path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Create an empty store, which replaces an existing one only when its metadata and coordinates are complete.

    facts: what `arrays.arrays_of` derives the arrays of this kind from, `fingerprint`, and what readers need
    """
    state = _state(kind, facts, samples)
    with replacing_folder(path) as part:
        write_metadata(part, state)
        _write_coordinates(part, state, samples)


def _state(kind: str, facts: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """All facts of an unfinished store."""
    return {"kind": kind, "layout": LAYOUT, "complete": False, **facts, "num_samples": len(samples)}


def restore_lost_facts(
    path: Path,
    kind: str,
    facts: Callable[[], Mapping[str, Any]],
    samples: Sequence[Sample],
    begin: Callable[[], None],
) -> None:
    """If the facts of a store are damaged or lost, write those of its stage, which computes them from its settings.

    The images that were made for their fingerprint are kept; the stage makes the others.

    facts, samples: as for `create_store`
    begin:          called before anything changes
    raises:         FactsError if they are damaged and no image was made for their fingerprint
    """
    try:
        if not store_state(path):
            refuse_lost_root(path)
        return
    except FactsError:
        state = _state(kind, facts(), samples)
        has_images = _has_image_of(path, state)
        if not has_images and recorded_facts(path) is not None:
            raise
    if not has_images and not store_exists(path):
        return  # `create_store` was killed while it removed another store
    if not has_images:
        raise FactsError(
            f"{path / ROOT} is damaged, and no image in {path} was made with these settings; run {remake_command(path)}"
        )
    log.info("%s: writing the facts of %s again, which were damaged or lost", STAGE_OF[kind], path)
    begin()
    write_metadata(path, state)


def _has_image_of(path: Path, state: dict[str, Any]) -> bool:
    """Whether a store contains an image that was made for the fingerprint in these facts."""
    try:
        return bool(Store(path, state, is_strict=False).is_own.any())
    except StoreError:
        return False


def resume_or_create(path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Keep an unfinished store with the same fingerprint; otherwise create an empty one.

    A finished store is replaced, too: its stage runs again only on request, when its receipt has been removed.
    """
    state = store_state(path)
    if state.get("fingerprint") == facts["fingerprint"] and not state["complete"]:
        log.info("%s: resuming the unfinished %s", STAGE_OF[kind], path)
        restore_store(path, samples)
        return
    if state:
        log.info("%s: replacing %s (fingerprint %s)", STAGE_OF[kind], path, state["fingerprint"])
    create_store(path, kind, facts, samples)


def restore_store(path: Path, samples: Sequence[Sample]) -> None:
    """Write the metadata and coordinates of an unfinished store again where they are lost or damaged.

    samples: the samples that its fingerprint was computed from, so that the ids are correct
    """
    remove_folder(going_of(path))  # of the store that this one replaced, if that was interrupted
    state = store_state(path)
    write_metadata(path, state)
    _write_coordinates(path, state, samples)


def _write_coordinates(path: Path, state: dict[str, Any], samples: Sequence[Sample]) -> None:
    """Write the coordinates that are not in the store yet: ids and sizes of images, classes, alphas and digests."""
    columns: dict[str, list[Any]] = {
        "sample": [s.id for s in samples],
        "height": [s.height for s in samples],
        "width": [s.width for s in samples],
        "class": list(state["class_names"]),
        "alpha": list(state.get("alphas", [])),
        "outcome": list(OUTCOMES),
        "image_digest": [int(s.image_digest or "0", 16) for s in samples],
    }
    store = Store(path, state, is_writable=True)
    for name, values in ((name, values) for name, values in columns.items() if store.has_array(name)):
        if not _has_values(store, name, values):
            remove_folder(path / name / "c")
            array = store.array(name)
            dtype = store.specs[name].dtype
            array[:] = np.array(values, dtype=object if dtype == "string" else dtype)


def _has_values(store: Store, name: str, values: list[Any]) -> bool:
    try:
        return store.read_present(name).tolist() == values  # type: ignore[no-any-return]
    except StoreError:
        return False

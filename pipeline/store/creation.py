"""How a store is made: its metadata, its coordinates, and resuming one that is half done."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt

from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.files import replacing_folder
from pipeline.folder import STAGE_OF
from pipeline.store.group import Store
from pipeline.store.metadata import LEVEL, store_state, write_metadata

log = logging.getLogger(__name__)


def create_store(path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Create an empty store in place of whatever was there; it appears under its name only when it is whole.

    facts: what `arrays.arrays_of` makes the arrays of this kind from, `fingerprint` and whatever readers need
    """
    state = {"kind": kind, "complete": False, **facts, "num_samples": len(samples)}
    with replacing_folder(path) as part:
        write_metadata(part, state)
        _write_coordinates(part, state, samples)


def resume_or_create(path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """Keep a half-done store of the same fingerprint; otherwise start an empty one.

    A finished store is started again too: its stage runs only if its receipt was taken away, that is, on request.
    """
    state = store_state(path)
    if state.get("fingerprint") == facts["fingerprint"] and not state["complete"]:
        log.info("%s: resuming the half-done %s", STAGE_OF[kind], path)
        restore_store(path, samples)
        return
    if state:
        log.info("%s: replacing %s (fingerprint %s)", STAGE_OF[kind], path, state["fingerprint"])
    create_store(path, kind, facts, samples)


def restore_store(path: Path, samples: Sequence[Sample]) -> None:
    """Write again the metadata and coordinates of a half-done store that are lost or damaged.

    samples: those that its fingerprint stands for, so that the ids cannot be others'
    """
    state = store_state(path)
    write_metadata(path, state)
    _write_coordinates(path, state, samples)


def _write_coordinates(path: Path, state: dict[str, Any], samples: Sequence[Sample]) -> None:
    """Write what is known of the axes before the first image is made, unless it is there."""
    columns: dict[str, list[Any]] = {
        "sample": [s.id for s in samples],
        "height": [s.height for s in samples],
        "width": [s.width for s in samples],
        "class": list(state["class_names"]),
        "alpha": list(state.get("alphas", [])),
        "image_digest": [int(s.image_digest or "0", 16) for s in samples],
    }
    store = Store(path, state, is_writable=True)
    for name, values in ((name, values) for name, values in columns.items() if store.has_array(name)):
        if not _holds(store, name, values):
            shutil.rmtree(path / name / "c", ignore_errors=True)
            array = store.array(name)
            dtype = store.specs[name].dtype
            array[:] = np.array(values, dtype=object if dtype == "string" else dtype)


def _holds(store: Store, name: str, values: list[Any]) -> bool:
    try:
        return store.read_present(name).tolist() == values  # type: ignore[no-any-return]
    except StoreError:
        return False


def compressed_bytes(values: npt.NDArray[Any]) -> int:
    """Bytes of an array as one chunk, without its checksum."""
    codec: Any = numcodecs.Blosc(cname="zstd", clevel=LEVEL, shuffle=numcodecs.Blosc.SHUFFLE)
    return len(codec.encode(np.ascontiguousarray(values)))

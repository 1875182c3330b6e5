"""The three Zarr stores of a run; the only package that opens them.

Every store is a Zarr v3 group whose arrays name their dimensions (so `xarray.open_zarr` reads it) and end in a crc32c
checksum.

arrays         which arrays a store has, from its facts
facts          bounds of the facts
chunked_array  an array of a store, by whole chunks
metadata       every zarr.json of a store, from its facts; the digest of the facts
group          reading and finishing a store
creation       creating a store, and resuming an unfinished one
integrity      opening a store; what is lost or damaged, and its repair
map_cache      the maps that all runs share, a file for each annotator and image
bucket         the same in an object store, packed or not (packs)
shared_labels  labels.zarr in an object store, several images in one object (shards); its repair (shared_integrity)
object_store   reading and writing objects
probabilities  probs.zarr        written by annotate
calibration    calibration.zarr  written by calibrate
labels         labels.zarr       written by pseudolabel
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import StoreError
from pipeline.folder import STAGE_OF, stage_command
from pipeline.store.arrays import ABSENT, COORDINATES, DONE, FAILED, OUTCOMES, SMALL, arrays_of
from pipeline.store.calibration import CalibrationStore, open_calibration
from pipeline.store.chunked_array import decode_chunk, encode_chunk
from pipeline.store.creation import (
    create_store,
    restore_lost_facts,
    restore_store,
    resume_or_create,
)
from pipeline.store.group import LEFTOVERS, Handle, observed_in, refuse_lost_root
from pipeline.store.integrity import (
    Damage,
    chunks_of,
    metadata_damage,
    read_chunks,
    refuse_lost,
    repair_store,
    restore_facts,
)
from pipeline.store.labels import LabelStore, has_planes, keep_planes, open_labels
from pipeline.store.map_cache import MapCache
from pipeline.store.metadata import (
    recorded_facts,
    refuse_other_layout,
    remake_command,
    repair_command,
    store_exists,
    store_state,
)
from pipeline.store.probabilities import ProbabilityReader, ProbabilityStore, encode_maps, open_probabilities
from pipeline.store.shared_labels import SharedLabels

__all__ = [
    "ABSENT",
    "COORDINATES",
    "DONE",
    "FAILED",
    "LEFTOVERS",
    "OUTCOMES",
    "SMALL",
    "STORES",
    "AnyStore",
    "CalibrationStore",
    "Damage",
    "Handle",
    "LabelStore",
    "MapCache",
    "ProbabilityReader",
    "ProbabilityStore",
    "SharedLabels",
    "arrays_of",
    "chunks_of",
    "create_store",
    "decode_chunk",
    "encode_chunk",
    "encode_maps",
    "has_planes",
    "keep_planes",
    "metadata_damage",
    "observed_in",
    "open_calibration",
    "open_for_inspection",
    "open_labels",
    "open_probabilities",
    "read_chunks",
    "recorded_facts",
    "refuse_lost",
    "remake_command",
    "repair_command",
    "repair_store",
    "restore_facts",
    "restore_lost_facts",
    "restore_store",
    "resume_or_create",
    "store_exists",
    "store_state",
]

AnyStore = ProbabilityStore | CalibrationStore | LabelStore
STORES: dict[str, type[AnyStore]] = {
    "probabilities": ProbabilityStore,
    "calibration": CalibrationStore,
    "labels": LabelStore,
}


def open_for_inspection(path: Path) -> AnyStore:
    """Open a store of any kind for reading, finished or not; StoreError if there is none or its facts are damaged."""
    state = store_state(path)
    if not state:
        refuse_lost_root(path)
        raise StoreError(f"no store at {path}; name a probs.zarr, calibration.zarr or labels.zarr of results/RUN")
    refuse_other_layout(path, state, stage_command(path, STAGE_OF[state["kind"]]))
    return STORES[state["kind"]](path, state)

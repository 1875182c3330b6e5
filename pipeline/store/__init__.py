"""The three Zarr stores of a run; the only package that opens them.

Every store is a Zarr v3 group whose arrays name their dimensions (so `xarray.open_zarr` reads it) and end in a crc32c
checksum.

group          how a store is opened, read and finished
creation       how a store is made, and gone on with
integrity      what of a store is lost or damaged, and how to fix it
kept_maps      other images for probs.zarr, whose maps are kept where they are the same
probabilities  probs.zarr        written by annotate
calibration    calibration.zarr  written by calibrate
labels         labels.zarr       written by pseudolabel
"""

from __future__ import annotations

from pathlib import Path

import zarr

from pipeline.errors import StoreError
from pipeline.store.calibration import CalibrationStore, calibration_arrays, open_calibration
from pipeline.store.creation import COORDINATES, compressed_bytes, create_store, restore_coordinates, resume_or_create
from pipeline.store.group import (
    ABSENT,
    DONE,
    FAILED,
    remake_command,
    repair_command,
    store_exists,
    store_state,
)
from pipeline.store.integrity import Damage, can_be_mended, chunks_of, metadata_damage, read_chunks, repair_store
from pipeline.store.kept_maps import replace_images, restore_replaced
from pipeline.store.labels import OUTCOMES, LabelStore, has_planes, keep_planes, label_arrays, open_labels
from pipeline.store.probabilities import (
    ProbabilityReader,
    ProbabilityStore,
    encode_maps,
    open_probabilities,
    probability_arrays,
)

__all__ = [
    "ABSENT",
    "COORDINATES",
    "DONE",
    "FAILED",
    "OUTCOMES",
    "STORES",
    "AnyStore",
    "CalibrationStore",
    "Damage",
    "LabelStore",
    "ProbabilityReader",
    "ProbabilityStore",
    "calibration_arrays",
    "can_be_mended",
    "chunks_of",
    "compressed_bytes",
    "create_store",
    "encode_maps",
    "has_planes",
    "keep_planes",
    "label_arrays",
    "metadata_damage",
    "open_calibration",
    "open_for_inspection",
    "open_labels",
    "open_probabilities",
    "probability_arrays",
    "read_chunks",
    "remake_command",
    "repair_command",
    "repair_store",
    "replace_images",
    "restore_coordinates",
    "restore_replaced",
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
    """Open a store of whatever kind to look at it, finished or not; StoreError if there is none."""
    state = store_state(path)
    if not state and path.suffix == ".zarr" and any(path.glob("*/zarr.json")):
        raise StoreError(f"{path / 'zarr.json'} is lost; run {remake_command(path)}")
    if not state:
        raise StoreError(f"no store at {path}; name a probs.zarr, calibration.zarr or labels.zarr of results/RUN")
    return STORES[state["kind"]](path, zarr.open_group(path, mode="r"), state)

"""The three Zarr stores of a run; the only package that opens Zarr.

Every store is a Zarr v3 group whose arrays name their dimensions (so `xarray.open_zarr` reads it) and end in a crc32c
checksum.

group          how a store is made, opened, checked and finished
probabilities  probs.zarr        written by annotate
calibration    calibration.zarr  written by calibrate
labels         labels.zarr       written by pseudolabel
"""

from __future__ import annotations

from pathlib import Path

import zarr

from pipeline.errors import StoreError
from pipeline.store.calibration import CalibrationStore, calibration_arrays, open_calibration
from pipeline.store.group import (
    ABSENT,
    DONE,
    FAILED,
    STAGE_OF,
    create_store,
    resume_or_create,
    store_exists,
    store_state,
)
from pipeline.store.labels import OUTCOMES, LabelStore, keep_planes, label_arrays, open_labels
from pipeline.store.probabilities import (
    ProbabilityReader,
    ProbabilityStore,
    encode_maps,
    open_probabilities,
    probability_arrays,
)

__all__ = [
    "ABSENT",
    "DONE",
    "FAILED",
    "OUTCOMES",
    "STAGE_OF",
    "STORES",
    "AnyStore",
    "CalibrationStore",
    "LabelStore",
    "ProbabilityReader",
    "ProbabilityStore",
    "calibration_arrays",
    "create_store",
    "encode_maps",
    "keep_planes",
    "label_arrays",
    "open_calibration",
    "open_for_inspection",
    "open_labels",
    "open_probabilities",
    "probability_arrays",
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
    expected = "name a probs.zarr, calibration.zarr or labels.zarr of results/RUN"
    try:
        state = store_state(path)
    except zarr.errors.ContainsArrayError:
        raise StoreError(f"{path} is one array of a store; {expected}") from None
    if not state:
        raise StoreError(f"no store at {path}; {expected}")
    return STORES[state["kind"]](path, zarr.open_group(path, mode="r"), state)

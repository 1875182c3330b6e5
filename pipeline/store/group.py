"""What the three stores have in common: how they are made, opened, checked and finished.

One chunk is one image, written by one writer; what is finished is told by `status`, never by chunks, because a lost
chunk and a chunk full of NaN look alike.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

import calib
from pipeline.datasets import Sample
from pipeline.errors import StoreError

log = logging.getLogger(__name__)

# An all-NaN chunk that is skipped on disk could not be told from a lost one. This setting is not stored with an array.
zarr.config.set({"array.write_empty_chunks": True})

ABSENT, DONE, FAILED = 0, 1, 2
STATUS_CHUNK = 4096
NAMESPACE = "conformalsam"
STAGE_OF = {"probabilities": "annotate", "calibration": "calibrate", "labels": "pseudolabel"}


class ArraySpec(NamedTuple):
    """What an array of a store holds."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: Any
    chunks: tuple[int, ...]
    attributes: Mapping[str, Any] = {}


def per_image(shape: Sequence[int], dims: Sequence[str], dtype: str, fill: Any, **attributes: Any) -> ArraySpec:
    """An array whose first axis is `sample`, one chunk an image."""
    return ArraySpec(("sample", *dims), tuple(shape), dtype, fill, (1, *shape[1:]), attributes)


def store_exists(path: Path) -> bool:
    return (path / "zarr.json").is_file()


def store_state(path: Path) -> dict[str, Any]:
    """Facts of an existing store: kind, fingerprint, complete, and what its stage recorded; {} if there is none."""
    if not store_exists(path):
        return {}
    state = dict(zarr.open_group(path, mode="r").attrs).get(NAMESPACE)
    if not isinstance(state, dict):
        raise StoreError(f"{path} is a Zarr group, but not one of ours; move it away")
    return state


def create_store(
    path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample], arrays: Mapping[str, ArraySpec]
) -> None:
    """Create an empty store in place of whatever was there; it appears under its name only when it is whole."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    group = zarr.open_group(part, mode="w", attributes={NAMESPACE: {"kind": kind, "complete": False, **facts}})
    for name, spec in arrays.items():
        create_array(group, name, spec)
    _write_coordinates(group, samples, facts["class_names"])
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)


def resume_or_create(
    path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample], arrays: Mapping[str, ArraySpec]
) -> None:
    """Keep a half-done store of the same fingerprint; otherwise start an empty one.

    A finished store is started again too: its stage runs only if its receipt was taken away, that is, on request.
    """
    state = store_state(path)
    if state.get("fingerprint") == facts["fingerprint"] and not state["complete"]:
        log.info("%s: going on with the half-done %s", STAGE_OF[kind], path)
        return
    if state:
        log.info("%s: replacing %s (fingerprint %s)", STAGE_OF[kind], path, state["fingerprint"])
    create_store(path, kind, facts, samples, arrays)


def create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=tuple(max(1, size) for size in spec.chunks),
        fill_value=spec.fill,
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()],
        dimension_names=spec.dims,
        attributes=dict(spec.attributes),
    )


def _write_coordinates(group: zarr.Group, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
    columns = {
        "sample": ("sample", np.array([s.id for s in samples], dtype=object), "string"),
        "height": ("sample", np.array([s.height for s in samples], dtype=np.int32), "int32"),
        "width": ("sample", np.array([s.width for s in samples], dtype=np.int32), "int32"),
        "class": ("class", np.array(list(class_names), dtype=object), "string"),
    }
    for name, (dim, values, dtype) in columns.items():
        fill = "" if dtype == "string" else 0
        create_array(group, name, ArraySpec((dim,), values.shape, dtype, fill, values.shape))
        array: Any = group[name]
        array[:] = values


def open_store(path: Path, kind: str, fingerprint: str | None, writable: bool) -> tuple[zarr.Group, dict[str, Any]]:
    """Open a store of a kind; for reading it must be complete and, if a fingerprint is given, made by that."""
    stage = STAGE_OF[kind]
    state = store_state(path)
    if not state:
        raise StoreError(f"no {kind} store at {path}; run snakemake --cores 8 {stage}")
    if state["kind"] != kind:
        raise StoreError(f"{path} holds {state['kind']}, expected {kind}; name another store")
    if not writable and not state["complete"]:
        raise StoreError(f"{path} is incomplete; run snakemake --cores 8 {stage} to finish it")
    if fingerprint is not None and state["fingerprint"] != fingerprint:
        raise StoreError(
            f"{path} was made by other settings or data (fingerprint {state['fingerprint']}, expected {fingerprint}); "
            f"run snakemake --cores 8 {stage} to rebuild it"
        )
    return zarr.open_group(path, mode="r+" if writable else "r"), state


@dataclass(frozen=True)
class Store:
    """What all three have in common."""

    path: Path
    group: zarr.Group
    state: dict[str, Any]
    opened: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def array(self, name: str) -> Any:
        """A zarr.Array of the store (typed Any: zarr's own stubs cannot tell arrays from groups)."""
        if name not in self.opened:  # reading its metadata again takes as long as reading a small chunk
            self.opened[name] = self.group[name]
        return self.opened[name]

    @property
    def fingerprint(self) -> str:
        return str(self.state["fingerprint"])

    @property
    def sample_ids(self) -> list[str]:
        return [str(i) for i in self.array("sample")[:]]

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.array("class")[:]]

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """uint8 [N]: ABSENT, DONE or FAILED."""
        status: npt.NDArray[np.uint8] = self.array("status")[:]
        return status

    def mark(self, index: int, status: int) -> None:
        """Record that an image is finished; to be called by one process only, after its chunks are written."""
        self.array("status")[index] = status

    def finish(self, **facts: Any) -> None:
        """Declare the store complete; nothing is written to it afterwards, so its metadata is consolidated."""
        for leftover in self.path.rglob("*.partial"):  # of a chunk that a killed run was writing
            leftover.unlink()
        self.group.attrs[NAMESPACE] = {**self.state, **facts, "complete": True}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(str(self.path))

    def missing_chunks(self) -> dict[str, list[str]]:
        """For every array the ids of finished images whose chunk is not on disk."""
        done = np.flatnonzero(self.status == DONE)
        ids = self.sample_ids
        missing: dict[str, list[str]] = {}
        for name in self.group.array_keys():
            array = self.array(name)
            if array.ndim in (3, 4) and array.metadata.dimension_names[0] == "sample":
                lost = [ids[i] for i in done if not self.has_chunk(name, int(i))]
                missing |= {name: lost} if lost else {}
        return missing

    def has_chunk(self, name: str, index: int) -> bool:
        """Is one image's part of an array on disk?"""
        trail = "/0" * (self.array(name).ndim - 1)
        return (self.path / name / f"c/{index}{trail}").is_file()

    def read_chunk(self, name: str, index: int) -> npt.NDArray[Any]:
        """One image's part of an array; StoreError if it is damaged or lost (zarr would give the fill value)."""
        again = f"run rm -r {self.path} && snakemake --cores 8 {STAGE_OF[self.state['kind']]}"
        if not self.has_chunk(name, index):
            raise StoreError(f"{self.path}: {name} of {self.sample_ids[index]} is not on disk; {again}")
        try:
            values: npt.NDArray[Any] = self.array(name)[index]
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{self.path}: {name} of {self.sample_ids[index]} is damaged ({error}); {again}") from None
        return values


def status_array(num_samples: int) -> ArraySpec:
    flags = {"flag_values": [ABSENT, DONE, FAILED], "flag_meanings": "absent done failed"}
    return ArraySpec(("sample",), (num_samples,), "uint8", ABSENT, (min(num_samples, STATUS_CHUNK),), flags)


def read_planes(store: Store, index: int) -> calib.Planes:
    best, first, second = (store.read_chunk(name, index) for name in calib.Planes._fields[:3])
    return calib.Planes(
        best, first, second, store.read_chunk("p_background", index) if "p_background" in store.group else None
    )


def plane_arrays(shape: Sequence[int], has_background: bool) -> dict[str, ArraySpec]:
    """Planes of every image on the grid, [N, H, W]."""
    names = ["p_foreground", "p_second", *(["p_background"] if has_background else [])]
    return {
        "best_foreground": per_image(shape, ("y", "x"), "uint8", 0, long_name="most probable foreground class"),
        **{name: per_image(shape, ("y", "x"), "float32", float("nan")) for name in names},
    }

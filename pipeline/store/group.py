"""What the three stores have in common: how they are opened, read and finished.

One chunk is one image, written by one writer; what is finished is told by `status`, never by chunks, because a lost
chunk and a chunk full of NaN look alike.
"""

from __future__ import annotations

import itertools
import shlex
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

import calib
from pipeline.errors import StoreError
from pipeline.folder import FILE_OF, STAGE_OF, stage_command

# An all-NaN chunk that is skipped on disk could not be told from a lost one. This setting is not stored with an array.
zarr.config.set({"array.write_empty_chunks": True})

ABSENT, DONE, FAILED = 0, 1, 2
NAMESPACE = "conformalsam"
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)  # what zarr raises for damaged files


def store_exists(path: Path) -> bool:
    return (path / "zarr.json").is_file()


def store_state(path: Path) -> dict[str, Any]:
    """Facts of an existing store: kind, fingerprint, complete, and what its stage recorded; {} if there is none.

    raises: StoreError if the metadata cannot be read, or are those of something else
    """
    if not store_exists(path):
        return {}
    try:
        state = dict(zarr.open_group(path, mode="r").attrs).get(NAMESPACE)
    except zarr.errors.ContainsArrayError:
        raise StoreError(f"{path} is one array of a store; name its folder, e.g. {path.parent}") from None
    except UNREADABLE as error:
        raise StoreError(f"{path / 'zarr.json'} is damaged ({one_line(error)}); run {remake_command(path)}") from None
    if not isinstance(state, dict):
        raise StoreError(f"{path} is a Zarr group, but not one of ours; move it away")
    if state.get("kind") not in STAGE_OF or not {"complete", "fingerprint"} <= state.keys():
        raise StoreError(f"{path / 'zarr.json'} is damaged (facts are missing); run {remake_command(path)}")
    return state


def remake_command(path: Path) -> str:
    """What makes a whole store again."""
    stage = next((STAGE_OF[kind] for kind, name in FILE_OF.items() if name == path.name), "STAGE")
    return f"rm -r {shlex.quote(str(path))} && {stage_command(path, stage)}"


def repair_command(path: Path, kind: str) -> str:
    """What makes the damaged images of a store again, and only those."""
    return f"conformalsam inspect {shlex.quote(str(path))} --repair && {stage_command(path, STAGE_OF[kind])}"


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def open_store(path: Path, kind: str, writable: bool, again: str | None) -> tuple[zarr.Group, dict[str, Any]]:
    """Open a store of a kind; for reading it must be complete.

    again:  command that makes it; default: of the run whose folder it lies in
    raises: StoreError
    """
    again = again or stage_command(path, STAGE_OF[kind])
    state = store_state(path)
    if not state:
        raise StoreError(f"no {kind} store at {path}; run {again}")
    if state["kind"] != kind:
        raise StoreError(f"{path} holds {state['kind']}, expected {kind}; name another store")
    if not writable and not state["complete"]:
        raise StoreError(f"{path} is incomplete; to finish it, run {again}")
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
            try:
                self.opened[name] = self.group[name]
            except UNREADABLE as error:
                raise self.damaged(name, error) from None
        return self.opened[name]

    def has_array(self, name: str) -> bool:
        try:
            return name in self.group
        except UNREADABLE as error:
            raise self.damaged(name, error) from None

    @property
    def array_names(self) -> list[str]:
        """Sorted names of all arrays."""
        try:
            return sorted(self.group.array_keys())
        except UNREADABLE as error:
            raise self.damaged("the zarr.json of an array", error) from None

    def read(self, name: str, index: int | None = None) -> npt.NDArray[Any]:
        """All of an array, or what lies at an index of its first axis; StoreError if it is damaged."""
        array = self.array(name)
        try:
            values: npt.NDArray[Any] = array[... if index is None else index]
        except UNREADABLE as error:
            raise self.damaged(name if index is None else f"{name}[{index}]", error) from None
        return values

    def read_present(self, name: str, index: int | None = None) -> npt.NDArray[Any]:
        """The same of an array that must be there; StoreError if it is lost (zarr would give the fill value)."""
        array = self.array(name)
        chunks = [range(-(-n // size)) for n, size in zip(array.shape, array.chunks, strict=True)]
        if index is not None:
            chunks[0] = range(index // array.chunks[0], index // array.chunks[0] + 1)
        for position in itertools.product(*chunks):
            if not self.path.joinpath(name, "c", *map(str, position)).is_file():
                again = repair_command(self.path, self.state["kind"])
                raise StoreError(f"{self.path}: {name} is not on disk; run {again}")
        return self.read(name, index)

    def damaged(self, what: str, error: Exception) -> StoreError:
        """The error for what zarr cannot read."""
        again = repair_command(self.path, self.state["kind"])
        return StoreError(f"{self.path}: {what} is damaged ({one_line(error)}); run {again}")

    @property
    def fingerprint(self) -> str:
        return str(self.state["fingerprint"])

    @property
    def sample_ids(self) -> list[str]:
        return [str(i) for i in self.read_present("sample")]

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.read_present("class")]

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """uint8 [N]: ABSENT, DONE or FAILED."""
        return self.read("status")

    def mark(self, index: int | npt.NDArray[np.intp], status: int) -> None:
        """Record that an image, or several, are finished; by one process only, after their chunks are written."""
        self.array("status")[index] = status

    def finish(self, **facts: Any) -> None:
        """Declare the store complete; nothing is written to it afterwards, so its metadata is consolidated."""
        for leftover in self.path.rglob("*.partial"):  # of a chunk that a killed run was writing
            leftover.unlink()
        self.group.attrs[NAMESPACE] = {**self.state, **facts, "complete": True}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(str(self.path))

    def missing_chunks(self, names: Collection[str] | None = None) -> dict[str, list[str]]:
        """For every array, or those of these names, the ids of finished images whose chunk is not on disk."""
        done = np.flatnonzero(self.status == DONE)
        ids = self.sample_ids
        missing: dict[str, list[str]] = {}
        for name in self.array_names if names is None else names:
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
        if not self.has_chunk(name, index):
            again = repair_command(self.path, self.state["kind"])
            raise StoreError(f"{self.path}: {name} of {self.sample_ids[index]} is not on disk; run {again}")
        try:
            values: npt.NDArray[Any] = self.array(name)[index]
        except UNREADABLE as error:
            raise self.damaged(f"{name} of {self.sample_ids[index]}", error) from None
        return values


def read_planes(store: Store, index: int) -> calib.Planes:
    best, first, second = (store.read_chunk(name, index) for name in calib.Planes._fields[:3])
    return calib.Planes(
        best, first, second, store.read_chunk("p_background", index) if store.has_array("p_background") else None
    )

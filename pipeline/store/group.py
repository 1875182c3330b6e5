"""What the three stores have in common: reading their arrays, marking images as done, and finishing them.

One chunk is one image, written by one writer. Only `status` and `made_by` record which images are done, never the
chunks: a lost chunk would be read as one of NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import refuse_unsafe_ids
from pipeline.errors import StoreError
from pipeline.files import is_file
from pipeline.folder import STAGE_OF, stage_command
from pipeline.lock import check_leases
from pipeline.store.arrays import ABSENT, DONE, ArraySpec, arrays_of
from pipeline.store.chunked_array import ChunkedArray
from pipeline.store.metadata import (
    ROOT,
    FactsError,
    difference,
    metadata_files,
    one_line,
    repair_command,
    restore_command,
    stage_of,
    store_state,
    write_metadata,
)
from pipeline.text import is_one_line

UNREADABLE = (ValueError, TypeError, RuntimeError)  # what numcodecs raises for damaged chunks
LEFTOVERS = "*.part*"  # temporary files of a killed process


def refuse_lost_root(path: Path) -> None:
    """FactsError if a folder contains the arrays of a store, but not its zarr.json."""
    if path.suffix == ".zarr" and any(path.glob(f"*/{ROOT}")):
        raise FactsError(f"{path / ROOT} is lost; run {restore_command(path)}")


class Handle(NamedTuple):
    """A store that a stage has opened and checked. Its tasks check that the store has still this fingerprint."""

    path: Path
    fingerprint: str


def refuse_other(path: Path, state: Mapping[str, Any], fingerprint: str) -> None:
    """StoreError if a store does not have the fingerprint that it had when a stage opened it."""
    if state.get("fingerprint") != fingerprint:
        raise StoreError(
            f"{path} was replaced by another process (fingerprint {state.get('fingerprint', 'none')}, expected "
            f"{fingerprint}); stop one of the two, then run {stage_command(path, stage_of(path))}"
        )


@dataclass(frozen=True)
class Store:
    """A store: its facts and its arrays.

    state:     facts of the store
    is_strict: whether an array is refused if its zarr.json does not follow from the facts
    opened:    arrays that have been opened, by name
    """

    path: Path
    state: dict[str, Any]
    is_writable: bool = False
    is_strict: bool = True
    opened: dict[str, ChunkedArray] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """Name -> specification of every array, sorted by name."""
        return dict(sorted(arrays_of(self.state).items()))

    @property
    def array_names(self) -> list[str]:
        """Sorted names of all arrays."""
        return list(self.specs)

    def has_array(self, name: str) -> bool:
        return name in self.specs

    def array(self, name: str) -> ChunkedArray:
        """An array as it follows from the facts; StoreError if its zarr.json on disk differs.

        To be called before each write: it ends a process that is not the only writer any more.
        """
        if self.is_writable:
            check_leases()
        if name not in self.opened:
            why = difference(self.path, name, metadata_files(self.state)[name]) if self.is_strict else None
            if why is not None:
                again = repair_command(self.path, self.state["kind"])
                raise StoreError(f"{self.path}: {name} is damaged ({why}); run {again}")
            self.opened[name] = ChunkedArray(self.path / name, self.specs[name])
        return self.opened[name]

    def read(self, name: str, index: int | None = None) -> npt.NDArray[Any]:
        """All of an array, or its entry at an index of the first axis; StoreError if it is damaged."""
        array = self.array(name)
        try:
            values: npt.NDArray[Any] = array[... if index is None else index]
        except UNREADABLE as error:
            raise self.damaged(name if index is None else f"{name}[{index}]", error) from None
        return values

    def read_present(self, name: str, index: int | None = None) -> npt.NDArray[Any]:
        """The same as `read`, but StoreError if a chunk is lost, too, instead of its fill value."""
        array = self.array(name)
        if not all(map(array.has_chunk, array.keys(... if index is None else index))):
            again = repair_command(self.path, self.state["kind"])
            raise StoreError(f"{self.path}: {name} is not on disk; run {again}")
        return self.read(name, index)

    def damaged(self, what: str, error: Exception) -> StoreError:
        """The StoreError for data that cannot be read."""
        again = repair_command(self.path, self.state["kind"])
        return StoreError(f"{self.path}: {what} is damaged ({one_line(error)}); run {again}")

    @property
    def fingerprint(self) -> str:
        return str(self.state["fingerprint"])

    @property
    def handle(self) -> Handle:
        return Handle(self.path.absolute(), self.fingerprint)

    def refuse_replaced(self) -> None:
        """StoreError if another process has replaced this store by another one."""
        refuse_other(self.path, store_state(self.path), self.fingerprint)

    @cached_property
    def sample_ids(self) -> list[str]:
        """Ids of the images, which are safe as file names; StoreError if one is not, or if they are damaged."""
        ids = [str(i) for i in self.read_present("sample")]
        refuse_unsafe_ids(self.path, ids)
        return ids

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes; StoreError if one contains control characters, which would break lists of names."""
        names = [str(name) for name in self.read_present("class")]
        unsafe = next((name for name in names if not is_one_line(name)), None)
        if unsafe is not None:
            again = repair_command(self.path, self.state["kind"])
            raise StoreError(
                f"{self.path} has the class {unsafe!r}, expected a name without control characters; run {again}"
            )
        return names

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """uint8 [N]: ABSENT, DONE or FAILED. An image that was made for another fingerprint is ABSENT."""
        return np.where(self.is_own, self.read("status"), np.uint8(ABSENT))

    @property
    def is_own(self) -> npt.NDArray[np.bool_]:
        """bool [N]: whether an image was made for the fingerprint of this store, done or not.

        No image is made for a store without a fingerprint, whose labels were about to be removed (`keep_planes`).
        """
        made_by = self.read("made_by")
        number = as_number(self.fingerprint) if self.fingerprint else None
        is_own: npt.NDArray[np.bool_] = np.zeros(made_by.shape, bool) if number is None else made_by == number
        return is_own

    def write_observed(self, index: int, observed: calib.Observed) -> None:
        """Write what is observed of one image without its mask. To be called by one process, before `mark`."""
        self.array("argmax_pixels")[index] = observed.pixels.astype(np.int32)
        self.array("argmax_probability")[index] = observed.probability

    def mark(self, index: int, status: int) -> None:
        """Record the status of an image. To be called by one process, after its chunks are written."""
        self.array("made_by")[index] = as_number(self.fingerprint)
        self.array("status")[index] = status

    def mark_all(self, indices: npt.NDArray[np.intp], status: int) -> None:
        """The same for many images, in one write."""
        for name, value in (("made_by", as_number(self.fingerprint)), ("status", status)):
            array = self.array(name)
            values = array[...]
            values[indices] = value
            array[...] = values

    def finish(self, **facts: Any) -> None:
        """Mark the store as complete. Nothing is written to it afterwards, so other programs may read it.

        facts:  to be added to the store's
        raises: StoreError if another process has replaced the store, or an image is neither done nor failed
        """
        self.refuse_replaced()
        status = self.status
        num_absent = int((status == ABSENT).sum())
        if num_absent:
            again = stage_command(self.path, STAGE_OF[self.state["kind"]])
            raise StoreError(
                f"{self.path}: {num_absent} of {len(status)} images were removed or written by another process "
                f"while this one ran; run {again}"
            )
        for leftover in self.path.rglob(LEFTOVERS):
            leftover.unlink()
        num_done = int((status == DONE).sum())
        write_metadata(self.path, {**self.state, **facts, "complete": True, "num_done": num_done})

    def missing_chunks(self, names: Collection[str] | None = None) -> dict[str, list[str]]:
        """Array -> ids of the images that are done, but have no chunk on disk. names: arrays to check; default: all"""
        done = np.flatnonzero(self.status == DONE)
        ids = self.sample_ids
        missing: dict[str, list[str]] = {}
        for name in self.array_names if names is None else names:
            spec = self.specs[name]
            if len(spec.dims) in (3, 4) and spec.dims[0] == "sample":
                lost = [ids[i] for i in done if not self.has_chunk(name, int(i))]
                missing |= {name: lost} if lost else {}
        return missing

    def has_chunk(self, name: str, index: int) -> bool:
        """Whether one image's chunk of an array is on disk."""
        other_axes = "/0" * (len(self.specs[name].dims) - 1)
        return is_file(f"{self.path}/{name}/c/{index}{other_axes}")

    def read_chunk(self, name: str, index: int) -> npt.NDArray[Any]:
        """One image's chunk of an array; StoreError if it is damaged or lost."""
        if not self.has_chunk(name, index):
            again = repair_command(self.path, self.state["kind"])
            raise StoreError(f"{self.path}: {name} of {self.sample_ids[index]} is not on disk; run {again}")
        try:
            values: npt.NDArray[Any] = self.array(name)[index]
        except UNREADABLE as error:
            raise self.damaged(f"{name} of {self.sample_ids[index]}", error) from None
        return values


def observed_in(store: Store, images: npt.NDArray[np.intp]) -> calib.Observed:
    """What was observed of some images of a store, [images, K] each; StoreError if it is damaged or lost."""
    return calib.Observed(
        store.read_present("argmax_pixels")[images].astype(np.int64), store.read_present("argmax_probability")[images]
    )


def as_number(fingerprint: str) -> np.uint64:
    """A fingerprint of up to 16 hex digits as it is stored for each image. 0 is stored for an image without one."""
    return np.uint64(int(fingerprint, 16))


def read_planes(store: Store, index: int) -> calib.Planes:
    """Planes of one image, each [H, W]; StoreError if one is damaged or lost."""
    best, first, second = (store.read_chunk(name, index) for name in calib.Planes._fields[:3])
    return calib.Planes(
        best, first, second, store.read_chunk("p_background", index) if store.has_array("p_background") else None
    )

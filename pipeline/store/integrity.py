"""Opening a store, finding what is lost or damaged, and repairing it so that its stage makes only that again.

A chunk is undamaged if it can be read, which includes its checksum. `status` and `made_by` determine which chunks
must exist.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import DISK_PROBLEMS, StoreError
from pipeline.files import is_file
from pipeline.folder import FILE_OF, STAGE_OF, stage_command
from pipeline.receipt import fingerprint
from pipeline.store.arrays import ABSENT, COORDINATES, DONE, MAPS
from pipeline.store.group import UNREADABLE, Handle, Store, as_number, refuse_lost_root, refuse_other
from pipeline.store.metadata import (
    ROOT,
    difference,
    metadata_files,
    one_line,
    recorded_facts,
    refuse_other_layout,
    remake_command,
    repair_command,
    store_state,
    without_receipt,
    write_metadata,
)

S = TypeVar("S", bound=Store)

STATUS_ARRAYS = ("status", "made_by")  # both are needed to determine which images are done


class Chunk(NamedTuple):
    """A chunk of an array, which is one file.

    key:    index of the chunk along each axis
    images: indices of the images that it contains; () for an array without the axis `sample`
    """

    array: str
    key: tuple[int, ...]
    images: tuple[int, ...] = ()

    def path(self, store: Path) -> Path:
        return Path(self._file(store))

    def is_on_disk(self, store: Path) -> bool:
        return is_file(self._file(store))

    def _file(self, store: Path) -> str:
        return f"{store}/{self.array}/c/{'/'.join(map(str, self.key))}"  # three times as fast as Path.joinpath


class Damage(NamedTuple):
    """Damage of an array, of one of its chunks, or of the metadata of the store (`zarr.json`)."""

    array: str
    problem: Literal["metadata", "missing", "corrupt"]
    why: str
    chunk: Chunk | None = None

    @property
    def images(self) -> tuple[int, ...]:
        """Images that the stage must make again; () for arrays that are always written (status, coordinates)."""
        return self.chunk.images if self.chunk is not None and len(self.chunk.key) > 1 else ()


def open_store(kind_of_store: type[S], kind: str, where: Path | Handle, writable: bool, again: str | None) -> S:
    """Open a store of a kind. For reading it must be complete, and nothing of it lost.

    where:    its folder; with the handle of a store that a stage has opened, only the facts are checked again
    writable: whether to open it for writing, finished or not
    again:    command that makes it, for messages; default: of the run whose folder contains it
    raises:   StoreError
    """
    path = where.path if isinstance(where, Handle) else where
    state = store_state(path)
    if isinstance(where, Handle):
        refuse_other(path, state, where.fingerprint)
        return kind_of_store(path, state, writable)
    again = again or stage_command(path, STAGE_OF[kind])  # reads a receipt, which takes longer than all the rest
    if not state:
        refuse_lost_root(path)
        raise StoreError(f"no {kind} store at {path}; run {without_receipt(path, STAGE_OF[kind], again)}")
    if state["kind"] != kind:
        raise StoreError(f"{path} contains {state['kind']}, expected {kind}; name a {FILE_OF[kind]} instead")
    refuse_other_layout(path, state, again)
    if not writable and not state["complete"]:
        raise StoreError(f"{path} is incomplete; to finish it, run {again}")
    store = kind_of_store(path, state, writable)
    if not writable:
        refuse_lost(store)
    return store


def metadata_damage(store: Store) -> list[Damage]:
    """Every zarr.json that is lost or differs from what follows from the facts of the store."""
    reasons = ((name, difference(store.path, name, text)) for name, text in metadata_files(store.state).items())
    return [Damage(name, "metadata", why) for name, why in reasons if why is not None]


def chunks_of(store: Store) -> list[Chunk]:
    """Every chunk that must exist; if `status` or `made_by` is damaged, every chunk on disk."""
    is_done = done_images(store)
    return [chunk for name in store.array_names for chunk in _chunks(store, name) if _must_be(store, chunk, is_done)]


def done_images(store: Store) -> npt.NDArray[np.bool_] | None:
    """bool [N]: status is DONE. None if `status` or `made_by` is damaged, or lost while chunks of its images exist."""
    try:
        is_done: npt.NDArray[np.bool_] = store.status == DONE
    except StoreError:
        return None
    on_disk = _images_with_a_chunk(store)
    lost = [chunk for name in STATUS_ARRAYS for chunk in _chunks(store, name) if not chunk.is_on_disk(store.path)]
    return None if any(on_disk.intersection(chunk.images) for chunk in lost) else is_done


def _images_with_a_chunk(store: Store) -> set[int]:
    chunks = (chunk for name in {*MAPS, "score", "label"} & store.specs.keys() for chunk in _chunks(store, name))
    return {image for chunk in chunks if chunk.is_on_disk(store.path) for image in chunk.images}


def _chunks(store: Store, name: str) -> Iterator[Chunk]:
    spec = store.specs[name]
    axis = spec.dims.index("sample") if "sample" in spec.dims else None
    lengths = [max(1, length) for length in spec.chunks]
    for key in itertools.product(*(range(-(-n // length)) for n, length in zip(spec.shape, lengths, strict=True))):
        images: tuple[int, ...] = ()
        if axis is not None:
            start = key[axis] * lengths[axis]
            images = tuple(range(start, min(start + lengths[axis], spec.shape[axis])))
        yield Chunk(name, key, images)


def _must_be(store: Store, chunk: Chunk, is_done: npt.NDArray[np.bool_] | None) -> bool:
    """Whether a chunk must exist: of an unfinished store, only coordinates and chunks of images that are done."""
    if chunk.is_on_disk(store.path) or chunk.array in COORDINATES:
        return True
    if chunk.array in STATUS_ARRAYS:
        return is_done is None
    if chunk.images and len(chunk.key) > 1:
        return is_done is not None and bool(is_done[list(chunk.images)].any())
    return bool(store.state["complete"])


def refuse_lost(store: Store) -> None:
    """StoreError if a finished store lost its status, metadata or a chunk. Chunks are not read.

    An unfinished store is not checked: its stage makes what is missing.
    """
    if not store.state["complete"]:
        return
    again = repair_command(store.path, store.state["kind"])
    damages = metadata_damage(store)
    if damages:
        raise StoreError(f"{store.path}: {damages[0].array} is damaged ({damages[0].why}); run {again}")
    is_done = store.status == DONE
    num_done, expected = int(is_done.sum()), store.state["num_done"]
    if num_done != expected:
        raise StoreError(
            f"{store.path} has {num_done} images that are done, expected {expected}: its status was lost, or another "
            f"process wrote to it; run {again}"
        )
    missing = (chunk for name in store.specs for chunk in _chunks(store, name) if not chunk.is_on_disk(store.path))
    lost = [chunk for chunk in missing if _must_be(store, chunk, is_done)]
    if lost:
        ids = store.sample_ids
        images = sorted({image for chunk in lost if len(chunk.key) > 1 for image in chunk.images})
        of_images = f" of {len(images)} images, e.g. {ids[images[0]]}," if images else ""
        raise StoreError(f"{store.path}: {lost[0].array}{of_images} is not on disk; run {again}")


def read_chunks(store: Store, chunks: Sequence[Chunk], on_done: Callable[[], None]) -> list[Damage]:
    """Read chunks on all cores; returns what is lost or damaged. `on_done` is called after each chunk."""
    damages = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for damage in pool.map(partial(_read, store), chunks):
            on_done()
            if damage is not None:
                damages.append(damage)
    return damages


def _read(store: Store, chunk: Chunk) -> Damage | None:
    if not chunk.is_on_disk(store.path):
        return Damage(chunk.array, "missing", "", chunk)
    try:
        store.array(chunk.array).read_chunk(chunk.key)
    except UNREADABLE as error:
        return Damage(chunk.array, "corrupt", one_line(error), chunk)
    except OSError as error:
        if error.errno in DISK_PROBLEMS and error.errno != errno.EIO:  # a repair would remove sound chunks
            raise
        return Damage(chunk.array, "corrupt", one_line(error), chunk)
    return None


def restore_facts(path: Path) -> bool:
    """If the facts of a finished store are damaged or lost, write its metadata again from the receipt of its stage.

    The receipt has its own digest. That its facts are those of this store is proven by their digest, which the damaged
    file still has, or else by the fingerprint that each image was made for.

    returns: whether the facts were damaged or lost
    raises:  StoreError if they are not in the receipt, or if the proof fails
    """
    try:
        if not store_state(path):
            refuse_lost_root(path)
        return False
    except StoreError:
        facts = recorded_facts(path)
        if facts is None:
            raise
    if not _are_facts_of(path, facts):
        raise StoreError(
            f"{path / ROOT} is damaged, and neither its digest nor the images are those of the facts that the receipt "
            f"of {STAGE_OF[facts['kind']]} records; run {remake_command(path)}"
        )
    write_metadata(path, facts)
    return True


def _are_facts_of(path: Path, facts: dict[str, Any]) -> bool:
    root = path / ROOT
    if root.is_file() and f'"digest": "{fingerprint(facts)}"'.encode() in root.read_bytes():
        return True
    store = Store(path, facts, is_strict=False)
    try:
        return bool(store.is_own.all()) and int((store.status == DONE).sum()) == facts["num_done"]
    except StoreError:
        return False


def repair_store(store: Store, damages: Collection[Damage], again: Collection[int]) -> list[int]:
    """Remove damaged chunks from a store and mark it as unfinished, so that its stage makes only these images again.

    Metadata are written from the facts. No other process may write to the store at the same time.

    damages: everything that `metadata_damage` and `read_chunks` returned
    again:   indices of images to make again besides the damaged ones
    returns: indices of the images that the stage will make again
    """
    write_metadata(store.path, {**store.state, "complete": False})
    fixed = replace(store, is_writable=True, opened={})
    for damage in damages:
        if damage.chunk is not None:
            damage.chunk.path(store.path).unlink(missing_ok=True)
    damaged = {damage.array for damage in damages if damage.chunk is not None}
    if "made_by" in damaged:  # in a finished store, every image was made for its fingerprint
        made_by = fixed.array("made_by")
        made_by[:] = as_number(store.fingerprint) if store.state["complete"] else 0
    if not damaged.isdisjoint(STATUS_ARRAYS):
        status = np.where(_complete_images(fixed) & fixed.is_own, DONE, ABSENT)
    else:
        status = fixed.status
    status[sorted({image for damage in damages for image in damage.images} | set(again))] = ABSENT
    array = fixed.array("status")
    array[:] = status.astype(np.uint8)
    return np.flatnonzero(status == ABSENT).tolist()


def _complete_images(store: Store) -> npt.NDArray[np.bool_]:
    """bool [N]: every chunk is on disk. To be called after damaged chunks have been removed."""
    is_complete = np.ones(store.specs["status"].shape, dtype=np.bool_)
    for name, spec in store.specs.items():
        if len(spec.dims) == 1 or "sample" not in spec.dims:
            continue
        for chunk in _chunks(store, name):
            if not chunk.is_on_disk(store.path):
                is_complete[list(chunk.images)] = False
    if store.has_array("argmax_pixels"):  # written after everything else, and every image has pixels
        is_complete &= store.read("argmax_pixels").any(axis=1)
    return is_complete

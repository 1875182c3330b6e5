"""What of a store is lost or damaged, and fixing it so that its stage makes just that again.

A chunk is whole if zarr can read it, which includes its checksum. Which chunks there must be is told by `status`.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr

import calib
from pipeline.errors import StoreError
from pipeline.files import read_json, write_text
from pipeline.store.creation import COORDINATES
from pipeline.store.group import (
    ABSENT,
    DONE,
    NAMESPACE,
    UNREADABLE,
    Store,
    one_line,
)

OF_KIND = {
    "probabilities": {"prob", "image_digest"},
    "calibration": {"score", "truth", *calib.Planes._fields},
    "labels": {"label", "outcome_pixels", "class_pixels", "alpha", *calib.Planes._fields},
}


class Chunk(NamedTuple):
    """A part of an array that is one file. images: whose part it is, none for arrays that are not of images."""

    array: str
    position: tuple[int, ...]
    images: tuple[int, ...] = ()

    def path(self, store: Path) -> Path:
        return store.joinpath(self.array, "c", *map(str, self.position))


class Damage(NamedTuple):
    """What is wrong with an array, or with a chunk of it. why: what the reader said, empty if it is just not there."""

    array: str
    problem: Literal["metadata", "missing", "corrupt"]
    why: str
    chunk: Chunk | None = None

    @property
    def images(self) -> tuple[int, ...]:
        """Images that the stage must make again for it; none for what it makes in any case (status, coordinates)."""
        return self.chunk.images if self.chunk is not None and len(self.chunk.position) > 1 else ()


def metadata_damage(store: Store) -> list[Damage]:
    """Arrays whose zarr.json is lost, cannot be read, or differs from the copy that a finished store keeps of it."""
    copies = _copies(store.path)
    wanted = {*COORDINATES, "status", *OF_KIND[store.state["kind"]]} - (
        {"p_background"} if store.state.get("background") is None else set()
    )
    damages = []
    for name in sorted(wanted | copies.keys() | {found.parent.name for found in store.path.glob("*/zarr.json")}):
        why = _why_unreadable(store.path / name)
        if why is None and name in copies and copies[name] != read_json(store.path / name / "zarr.json"):
            why = "differs from its copy in the store's zarr.json"
        if why is not None:
            damages.append(Damage(name, "metadata", why))
    return damages


def _copies(path: Path) -> dict[str, Any]:
    """Array -> what a finished store keeps of its metadata; {} for one that is not finished."""
    consolidated = read_json(path / "zarr.json").get("consolidated_metadata") or {}
    return dict(consolidated.get("metadata", {}))


def _why_unreadable(array: Path) -> str | None:
    try:
        zarr.open_array(array, mode="r")
    except FileNotFoundError:
        return "is not on disk"
    except UNREADABLE as error:
        return one_line(error)
    return None


def chunks_of(store: Store) -> list[Chunk]:
    """Every chunk that there must be; where `status` is damaged, those that are on disk."""
    names = {found.parent.name for found in store.path.glob("*/zarr.json")} | _copies(store.path).keys()
    arrays = [name for name in sorted(names) if _is_readable(store, name)]
    is_done = done_images(store)
    return [chunk for name in arrays for chunk in _positions(store, name) if _must_be(store, chunk, is_done)]


def done_images(store: Store) -> npt.NDArray[np.bool_] | None:
    """bool [N], or None if the status is damaged, or lost although parts of its images are there."""
    try:
        is_done: npt.NDArray[np.bool_] = store.status == DONE
    except StoreError:
        return None
    on_disk = _images_with_a_chunk(store)
    lost = (chunk for chunk in _positions(store, "status") if not chunk.path(store.path).is_file())
    return None if any(on_disk.intersection(chunk.images) for chunk in lost) else is_done


def _images_with_a_chunk(store: Store) -> set[int]:
    names = [name for name in ("prob", "score", "label") if (store.path / name).is_dir() and _is_readable(store, name)]
    chunks = (chunk for name in names for chunk in _positions(store, name))
    return {image for chunk in chunks if chunk.path(store.path).is_file() for image in chunk.images}


def _is_readable(store: Store, name: str) -> bool:
    try:
        store.array(name)
    except StoreError:
        return False
    return True


def _positions(store: Store, name: str) -> Iterator[Chunk]:
    array = store.array(name)
    dims = array.metadata.dimension_names
    axis = dims.index("sample") if "sample" in dims else None
    for position in itertools.product(
        *(range(-(-n // size)) for n, size in zip(array.shape, array.chunks, strict=True))
    ):
        images: tuple[int, ...] = ()
        if axis is not None:
            start = position[axis] * array.chunks[axis]
            images = tuple(range(start, min(start + array.chunks[axis], array.shape[axis])))
        yield Chunk(name, position, images)


def _must_be(store: Store, chunk: Chunk, is_done: npt.NDArray[np.bool_] | None) -> bool:
    """An unfinished store may lack what comes last, but neither its coordinates nor parts of images that are done."""
    if chunk.path(store.path).is_file() or chunk.array in COORDINATES:
        return True
    if chunk.array == "status":
        return is_done is None
    if chunk.images and store.array(chunk.array).ndim > 1:
        return is_done is not None and bool(is_done[list(chunk.images)].any())
    return bool(store.state["complete"])


def read_chunks(store: Store, chunks: Sequence[Chunk], on_done: Callable[[], None]) -> list[Damage]:
    """Read chunks on all cores, and say which are lost or damaged; `on_done` is called after each."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for damage in pool.map(partial(_read, store), chunks):
            on_done()
            if damage is not None:
                found.append(damage)
    return found


def _read(store: Store, chunk: Chunk) -> Damage | None:
    if not chunk.path(store.path).is_file():
        return Damage(chunk.array, "missing", "", chunk)
    try:
        store.array(chunk.array).blocks[chunk.position]
    except (*UNREADABLE, OSError) as error:
        return Damage(chunk.array, "corrupt", one_line(error), chunk)
    return None


def repair_store(store: Store, damages: Collection[Damage], again: Collection[int]) -> list[int]:
    """Take what is damaged out of a store and declare it unfinished, so that its stage makes just that again.

    Metadata that cannot be read come from their copy. No other process may write to the store meanwhile.

    damages: all that `metadata_damage` and `read_chunks` found; `can_be_mended` must be true of each
    again:   images to be made again beside the damaged ones
    returns: indices of the images that the stage will make again
    """
    copies = _copies(store.path)
    for damage in damages:
        if damage.problem == "metadata":
            _mend_metadata(store, damage.array, copies.get(damage.array))
    group = zarr.open_group(store.path, mode="r+", use_consolidated=False)
    group.attrs[NAMESPACE] = {**store.state, "complete": False}
    fixed = type(store)(store.path, group, store.state)
    is_status_damaged = done_images(fixed) is None
    for damage in damages:
        if damage.chunk is not None:
            damage.chunk.path(store.path).unlink(missing_ok=True)
    if is_status_damaged:
        array = fixed.array("status")
        array[:] = np.where(_whole_images(fixed), DONE, ABSENT).astype(np.uint8)
    lost = {image for damage in damages for image in damage.images}
    for image in sorted(lost | set(again)):
        fixed.mark(image, ABSENT)
    return np.flatnonzero(fixed.status == ABSENT).tolist()


def can_be_mended(store: Store, damage: Damage) -> bool:
    """Is there a copy of what is damaged, or something to make it from?"""
    is_made_by_every_run = damage.array in COORDINATES or (
        store.state["kind"] == "calibration" and damage.array.startswith(("alpha", "fold", "q_hat", "n_valid"))
    )
    has_copy = is_made_by_every_run or damage.array in _copies(store.path)
    return damage.problem != "metadata" or has_copy or _why_unreadable(store.path / damage.array) is None


def _mend_metadata(store: Store, name: str, copy: Any) -> None:
    folder = store.path / name
    if _why_unreadable(folder) is None:
        return  # it differs from its copy, which goes when the store is declared unfinished
    if copy is None:
        shutil.rmtree(folder, ignore_errors=True)  # the stage makes it again
        return
    folder.mkdir(exist_ok=True)
    write_text(folder / "zarr.json", json.dumps(copy, indent=2))


def _whole_images(store: Store) -> npt.NDArray[np.bool_]:
    """bool [N]: every part is on disk. To be called when damaged chunks are not there any more."""
    is_whole = np.ones(store.array("status").shape, dtype=np.bool_)
    for name in store.array_names:
        if store.array(name).ndim == 1 or "sample" not in store.array(name).metadata.dimension_names:
            continue
        for chunk in _positions(store, name):
            if not chunk.path(store.path).is_file():
                is_whole[list(chunk.images)] = False
    if store.state["kind"] == "labels":  # an image is counted after it is written; no image has no pixels
        is_whole &= store.read("outcome_pixels")[:, 0] > 0
    return is_whole

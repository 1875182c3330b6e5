"""What labels are in an object store, which of their objects are damaged or lost, and their repair."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import StoreError
from pipeline.store.arrays import DONE
from pipeline.store.chunked_array import is_undamaged
from pipeline.store.integrity import STATUS_ARRAYS
from pipeline.store.labels import LabelStore
from pipeline.store.metadata import ROOT, sharded_metadata_files, store_state
from pipeline.store.object_store import TRIES, ObjectStore
from pipeline.store.packs import unpacked
from pipeline.store.shards import is_shard, sharded, shards_of
from pipeline.store.shared_labels import (
    PROGRESS,
    SHARD_REQUESTS,
    SharedLabels,
    files_of,
    files_without_pixels,
    write_files,
)

NAME = re.compile(r"\w+-\d+-\d+\.zarr")  # as `SharedLabels.behind` gives it


class Expected(NamedTuple):
    """What a finished store must have. Of an unfinished one nothing is expected.

    texts:      name -> text of each zarr.json
    num_chunks: name -> chunks of each shard
    entries:    names of the chunks of the other arrays
    """

    texts: Mapping[str, str] = {}
    num_chunks: Mapping[str, int] = {}
    entries: Sequence[str] = ()

    @property
    def names(self) -> set[str]:
        return {*self.texts, *self.num_chunks, *self.entries}


def shared_labels_in(url: str | None) -> list[SharedLabels]:
    """The labels of all fingerprints below the URL of the setting `labels`, by name; [] without one."""
    if url is None:
        return []
    names = {name.partition("/")[0] for name, _ in ObjectStore(url.rstrip("/"), "labels").listed()}
    return [SharedLabels(url, name) for name in sorted(names) if NAME.fullmatch(name)]


def labels_summary(labels: SharedLabels) -> str:
    """One line: how many images are there, in how many objects, and whether all are."""
    facts = _facts(labels) if labels.is_finished else None
    shards = sum(name.startswith("label/c/") for name in labels.there)
    images = f"up to {shards * labels.size}" if facts is None else facts["num_done"]
    state = "finished" if labels.is_finished else "unfinished"
    return f"{labels.url}: {images} images in {len(labels.there)} objects, {state}"


def _facts(labels: SharedLabels) -> dict[str, Any] | None:
    """Facts of a finished store; None if they are damaged each time that they are read."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(TRIES):
            (Path(folder) / ROOT).write_bytes(labels.objects.read(ROOT) or b"")
            with suppress(StoreError):
                return store_state(Path(folder))
    return None


def damaged_objects(labels: SharedLabels, advance: Callable[[], None]) -> list[str]:
    """Names of the objects that are damaged or, of a finished store, missing. advance: called after each object"""
    expected = _expected(labels)
    names = sorted(labels.there.keys() | expected.names)
    found = []
    with ThreadPoolExecutor(SHARD_REQUESTS) as pool:
        for name, is_sound in zip(names, pool.map(partial(_is_sound, labels, expected), names), strict=True):
            found += [] if is_sound else [name]
            advance()
    return found


def _expected(labels: SharedLabels) -> Expected:
    if not labels.is_finished:
        return Expected()
    facts = _facts(labels)
    if facts is None:
        return Expected(texts={ROOT: ""})  # no object has this text
    texts = sharded_metadata_files(facts, labels.size).items()
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(Path(folder), facts, is_strict=False)
        groups = labels.by_shard(_done_images(labels, store))
    return Expected(
        texts={ROOT if name == ROOT else f"{name}/{ROOT}": text for name, text in texts},
        num_chunks={one.name: len(one.files) for images in groups for one in shards_of(store, labels.size, images)},
        entries=list(files_without_pixels(store)),
    )


def _done_images(labels: SharedLabels, store: LabelStore) -> list[int]:
    """Images that are done, for a store in a temporary folder; [] if the arrays that say so are damaged."""
    names = [file for name in STATUS_ARRAYS for file in files_of(store, name)]
    contents = {name: content for name in names if (content := labels.read(name)) is not None}
    if len(contents) < len(names):
        return []
    write_files(store.path, contents)
    done: list[int] = np.flatnonzero(store.status == DONE).tolist()
    return done


def _is_sound(labels: SharedLabels, expected: Expected, name: str) -> bool:
    """Whether an object is undamaged, and has all chunks that it must have."""
    if is_shard(name):
        chunks, is_whole = labels.read_shard(name)
        return is_whole and len(chunks) >= expected.num_chunks.get(name, 0)
    contents = (labels.objects.read(name) for _ in range(TRIES))
    return any(content is not None and _is_undamaged(name, content, expected.texts) for content in contents)


def _is_undamaged(name: str, content: bytes, texts: Mapping[str, str]) -> bool:
    """Whether the content of an object that is no shard is undamaged. texts: those of `Expected`"""
    if name in texts:
        return content == texts[name].encode()
    if name == PROGRESS:
        try:
            return all(map(is_undamaged, unpacked(name, content).values()))
        except StoreError:
            return False
    return name.endswith(ROOT) or is_undamaged(content)  # without facts, a zarr.json cannot be checked


def remove_damaged(labels: SharedLabels, names: Iterable[str]) -> None:
    """Remove damaged objects, and the facts, so that the store is unfinished, and its stage sends what it lacks.

    Of a shard, only the damaged chunks are removed: its other images need not be made again.
    """
    if labels.is_finished:
        labels.objects.remove([PROGRESS])  # one that is there is of a process that was not the first to finish
    labels.objects.remove([ROOT])
    for name in names:
        chunks = labels.read_shard(name)[0] if is_shard(name) else {}
        if chunks:
            labels.objects.write(name, sharded(chunks, labels.size))
        else:
            labels.objects.remove([name])

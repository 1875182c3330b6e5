"""The labels of a run in an object store, behind labels.zarr on the disk, for machines without a common disk.

A finished store has there the same files as on the disk, so every reader of Zarr v3 reads it; its zarr.json is written
last. It is named by its fingerprint: labels of other settings are another store, and machines with the same settings
write the same bytes. The arrays with an entry for each image (its status, its counts) have several images in a chunk.
Until the store is finished, they are therefore in one object, which is replaced as a whole.

    URL/FINGERPRINT-LAYOUT.zarr/label/c/3/0/0  a chunk of one image, as on the disk
    URL/FINGERPRINT-LAYOUT.zarr/progress       chunks of all other arrays: those of the images that are there
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.files import is_file, replacing
from pipeline.progress import Progress
from pipeline.store.arrays import COORDINATES, DONE
from pipeline.store.chunked_array import is_undamaged
from pipeline.store.integrity import STATUS_ARRAYS
from pipeline.store.labels import LabelStore
from pipeline.store.metadata import ROOT, metadata_files, store_state
from pipeline.store.object_store import REQUESTS, TRIES, ObjectStore
from pipeline.store.packs import packed, unpacked

log = logging.getLogger(__name__)

PROGRESS = "progress"
PIXELS = "y"  # axis of the arrays with a chunk of their own for each image
SECONDS_TO_SEND = 30.0  # between two times that finished images are sent
LARGEST_FRACTION = 0.1  # of the time that sending may take


class SharedLabels:
    """The labels of one fingerprint in an object store.

    raises: BucketError in all methods, for a store that cannot be reached, or refuses
    """

    def __init__(self, url: str, name: str) -> None:
        self.objects = ObjectStore(f"{url.rstrip('/')}/{name}", "labels")
        self.unsent: list[int] = []
        self.next_time = 0.0

    @staticmethod
    def behind(store: LabelStore, url: str) -> SharedLabels:
        """The labels of a store on the disk, below the URL of the setting `labels`."""
        return SharedLabels(url, f"{store.fingerprint}-{store.state['layout']}.zarr")

    @property
    def url(self) -> str:
        return self.objects.url

    @cached_property
    def there(self) -> set[str]:
        """Names of the objects that were there when this was asked first, or that this process has sent."""
        return {name for name, _ in self.objects.listed()}

    def fetch(self, store: LabelStore) -> None:
        """Copy the images that are there, undamaged, into an unfinished store that lacks them; it sends the others."""
        with tempfile.TemporaryDirectory() as folder:
            theirs = self._entries(store, Path(folder))
            if theirs is None:
                self.there.clear()  # chunks of images that nothing counts are sent again
            else:
                self._fetch_images(theirs, store)
        self.unsent = np.flatnonzero(store.status == DONE).tolist()

    def _fetch_images(self, theirs: LabelStore, store: LabelStore) -> None:
        wanted = np.flatnonzero((theirs.status == DONE) & (store.status != DONE)).tolist()
        if not wanted:
            return
        progress = Progress(log, f"pseudolabel: reading labels from {self.url}", len(wanted), "images")
        found = []
        with ThreadPoolExecutor(REQUESTS) as pool:
            for image, is_found in zip(wanted, pool.map(partial(self._fetch_image, store), wanted), strict=True):
                found += [image] if is_found else []
                progress.advance()
        _copy_entries(theirs, store, found)

    def _entries(self, store: LabelStore, folder: Path) -> LabelStore | None:
        """A store in a folder with the arrays that have an entry for each image; None if they are not there."""
        names = list(_files_without_pixels(store))
        if PROGRESS in self.there and ROOT not in self.there:
            files = self._progress()
        elif self.there.issuperset(names):
            with ThreadPoolExecutor(REQUESTS) as pool:
                contents = list(pool.map(self._read, names))
            files = {name: content for name, content in zip(names, contents, strict=True) if content is not None}
            files = files if len(files) == len(names) else {}
        else:
            return None
        if not files:
            log.warning("pseudolabel: the counts in %s are damaged, and its labels are made again", self.url)
            return None
        _write_files(folder, {name: files[name] for name in names if name in files})
        return replace(store, path=folder, is_writable=False, is_strict=False, opened={})

    def _progress(self) -> dict[str, bytes]:
        """Name -> content of the files that an unfinished store has in one object; {} if it is damaged or was removed.

        A file that no image of the store has an entry in is not there.
        """
        for _ in range(TRIES):
            content = self.objects.read(PROGRESS)
            with suppress(StoreError):
                files = {} if content is None else unpacked(PROGRESS, content)
                if all(map(is_undamaged, files.values())):
                    return files
        return {}

    def _read(self, name: str) -> bytes | None:
        """A chunk; None if it is missing, or is damaged each time that it is read."""
        for _ in range(TRIES if name in self.there else 0):
            content = self.objects.read(name)
            if content is not None and is_undamaged(content):
                return content
        self.there.discard(name)
        return None

    def _fetch_image(self, store: LabelStore, image: int) -> bool:
        """Copy the chunks of an image; False if one cannot be read."""
        for name in _files_of(store, image):
            content = self._read(name)
            if content is None:
                return False
            with replacing(store.path / name) as part:
                part.write_bytes(content)
        return True

    def add(self, store: LabelStore, image: int) -> None:
        """Send an image that is done, with others, when it is time to."""
        self.unsent.append(image)
        if time.monotonic() >= self.next_time:
            self.send(store)

    def send(self, store: LabelStore) -> None:
        """Send all images that are done, and then the entries of the arrays that have one for each image."""
        start = time.monotonic()
        self._send(store, (name for image in self.unsent for name in _files_of(store, image)))
        self.unsent = []
        written = (name for name in _files_without_pixels(store) if is_file(store.path / name))
        self.objects.write(PROGRESS, packed({name: (store.path / name).read_bytes() for name in written}))
        now = time.monotonic()
        self.next_time = now + max(SECONDS_TO_SEND, (now - start) / LARGEST_FRACTION)

    def finish(self, store: LabelStore) -> None:
        """Send what a finished store has besides the chunks of its images, the facts last."""
        names = [*_files_without_pixels(store), *(f"{name}/{ROOT}" for name in store.array_names)]
        self.there.difference_update(names)
        self._send(store, names)
        self.objects.write(ROOT, (store.path / ROOT).read_bytes())
        self.objects.remove([PROGRESS])
        log.info("pseudolabel: the labels are in %s, too", self.url)

    def _send(self, store: LabelStore, names: Iterable[str]) -> None:
        """Send those files of a store that are not there."""

        def send(name: str) -> str:
            self.objects.write(name, (store.path / name).read_bytes())
            return name

        with ThreadPoolExecutor(REQUESTS) as pool:
            self.there.update(pool.map(send, [name for name in names if name not in self.there]))

    def damaged(self, advance: Callable[[], None]) -> list[str]:
        """Names of the objects that are damaged or, of a finished store, missing. advance: called after each object"""
        texts, expected = self._expected()

        def is_damaged(name: str) -> bool:
            contents = (self.objects.read(name) for _ in range(TRIES))
            return not any(content is not None and _is_sound(name, content, texts) for content in contents)

        names = sorted(self.there | expected)
        found = []
        with ThreadPoolExecutor(REQUESTS) as pool:
            for name, is_bad in zip(names, pool.map(is_damaged, names), strict=True):
                found += [name] if is_bad else []
                advance()
        return found

    def _expected(self) -> tuple[Mapping[str, str], set[str]]:
        """Of a finished store: text of each zarr.json that it must have, and the names of all files."""
        if ROOT not in self.there:
            return {}, set()
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(TRIES):
                (Path(folder) / ROOT).write_bytes(self.objects.read(ROOT) or b"")
                with suppress(StoreError):
                    state = store_state(Path(folder))
                    break
            else:
                return {ROOT: ""}, set()  # no object has this text
            store = LabelStore(Path(folder), state, is_strict=False)
            texts = {ROOT if name == ROOT else f"{name}/{ROOT}": text for name, text in metadata_files(state).items()}
            names = texts.keys() | set(_files_without_pixels(store))
            return texts, names.union(*(_files_of(store, image) for image in self._done(store)))

    def _done(self, store: LabelStore) -> list[int]:
        """Images that are done, for a store in a temporary folder; [] if the arrays that say so are damaged."""
        names = [file for name in STATUS_ARRAYS for file in _files(store, name, ...)]
        contents = {name: content for name in names if (content := self._read(name)) is not None}
        if len(contents) < len(names):
            return []
        _write_files(store.path, contents)
        done: list[int] = np.flatnonzero(store.status == DONE).tolist()
        return done

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, and the facts, so that the store is unfinished and its stage sends them again."""
        self.objects.remove([*names, ROOT])

    def summary(self) -> str:
        """One line: how many images are there, and whether all are."""
        images = {name.split("/")[2] for name in self.there if name.startswith("label/c/")}
        return f"{self.url}: {len(images)} images, {'finished' if ROOT in self.there else 'unfinished'}"


def shared_labels_in(url: str) -> list[SharedLabels]:
    """The labels of all fingerprints below the URL of the setting `labels`, by name."""
    names = {name.partition("/")[0] for name, _ in ObjectStore(url.rstrip("/"), "labels").listed()}
    return [SharedLabels(url, name) for name in sorted(names) if name.endswith(".zarr")]


def _is_sound(name: str, content: bytes, texts: Mapping[str, str]) -> bool:
    """Whether the content of an object is undamaged. texts: as `_expected` returns them"""
    if name in texts:
        return content == texts[name].encode()
    if name == PROGRESS:
        try:
            return all(map(is_undamaged, unpacked(name, content).values()))
        except StoreError:
            return False
    return name.endswith(ROOT) or is_undamaged(content)  # without facts, a zarr.json cannot be checked


def _files_of(store: LabelStore, image: int) -> Iterator[str]:
    """Names of the chunks of an image: those of the arrays with pixels."""
    for name, spec in store.specs.items():
        if PIXELS in spec.dims:
            yield from _files(store, name, tuple(image if dim == "sample" else slice(None) for dim in spec.dims))


def _files_without_pixels(store: LabelStore) -> Iterator[str]:
    """Names of the chunks of the other arrays, whose chunks have several images or none."""
    for name, spec in store.specs.items():
        if PIXELS not in spec.dims:
            yield from _files(store, name, ...)


def _files(store: LabelStore, name: str, selection: Any) -> Iterator[str]:
    return (f"{name}/c/{'/'.join(map(str, key))}" for key in store.array(name).keys(selection))


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _copy_entries(theirs: LabelStore, mine: LabelStore, images: Sequence[int]) -> None:
    """Copy what the arrays without pixels have of some images, their status last."""
    for name, spec in mine.specs.items():
        if spec.dims[0] == "sample" and PIXELS not in spec.dims and name not in (*COORDINATES, *STATUS_ARRAYS):
            array = mine.array(name)
            values = array[...]
            values[images] = theirs.read(name)[images]
            array[...] = values
    mine.mark_all(np.array(images), DONE)

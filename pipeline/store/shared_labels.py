"""The labels of a run in an object store, behind labels.zarr on the disk, for machines without a common disk.

A finished store has there the arrays that it has on the disk, and every reader of Zarr v3 reads it; its zarr.json is
written last. The chunks of several images are in one object, a shard (`shards`): a million images must not be five
million objects. The store is named by its fingerprint: labels of other settings are another store, and machines with
the same settings write the same bytes.

    URL/FINGERPRINT-LAYOUT-IMAGES.zarr/label/c/3/0/0  a shard, sent when none of its images is still to be labeled
    URL/FINGERPRINT-LAYOUT-IMAGES.zarr/progress       of an unfinished store, chunks of the arrays without pixels: one
                                                      object, replaced as a whole, because they change with each image
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
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError
from pipeline.files import is_file, replacing
from pipeline.progress import Progress
from pipeline.store.arrays import ABSENT, COORDINATES, DONE
from pipeline.store.chunked_array import is_undamaged
from pipeline.store.integrity import STATUS_ARRAYS
from pipeline.store.labels import LabelStore
from pipeline.store.metadata import ROOT, sharded_metadata_files, store_state
from pipeline.store.object_store import REQUESTS, TRIES, ObjectStore
from pipeline.store.packs import packed, unpacked
from pipeline.store.shards import Shard, chunk_name, chunks_in, images_per_shard, shards_of

log = logging.getLogger(__name__)

PROGRESS = "progress"
SHARD_REQUESTS = 4  # at the same time, because each takes the memory of a shard or two
SECONDS_TO_SEND = 30.0  # between two times that finished images are sent
LARGEST_FRACTION = 0.1  # of the time that sending may take


class SharedLabels:
    """The labels of one fingerprint in an object store.

    size:   images in a shard
    unsent: images that are done and may be in no shard that is there

    raises: BucketError in all methods, for a store that cannot be reached, or refuses
    """

    def __init__(self, url: str, name: str) -> None:
        self.objects = ObjectStore(f"{url.rstrip('/')}/{name}", "labels")
        self.size = int(name.removesuffix(".zarr").rpartition("-")[2])
        self.unsent: set[int] = set()
        self.next_time = 0.0

    @staticmethod
    def behind(store: LabelStore, url: str) -> SharedLabels:
        """The labels of a store on the disk, below the URL of the setting `labels`."""
        return SharedLabels(url, f"{store.fingerprint}-{store.state['layout']}-{images_per_shard(store)}.zarr")

    @property
    def url(self) -> str:
        return self.objects.url

    @cached_property
    def there(self) -> dict[str, int]:
        """Name -> bytes of the objects that were there when this was asked first, or that this process has sent."""
        return dict(self.objects.listed())

    @property
    def is_finished(self) -> bool:
        return ROOT in self.there

    def fetch(self, store: LabelStore) -> None:
        """Copy the images that are there, undamaged, into an unfinished store that lacks them; it sends the others."""
        self.unsent = set(np.flatnonzero(store.status == DONE).tolist())
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), self._entries(store))
            theirs = replace(store, path=Path(folder), is_writable=False, is_strict=False, opened={})
            wanted = np.flatnonzero((theirs.status == DONE) & (store.status != DONE) & ~_lost_entries(theirs)).tolist()
            groups = [images for images in self.by_shard(wanted) if self.is_finished or self._are_there(store, images)]
            if groups:
                _copy_entries(theirs, store, self._fetch_images(store, groups))

    def _entries(self, store: LabelStore) -> dict[str, bytes]:
        """Content of the chunks of entries that are there, undamaged, by name."""
        names = [file for name in (*STATUS_ARRAYS, *_arrays_of_entries(store)) for file in files_of(store, name)]
        if PROGRESS in self.there and not self.is_finished:
            files = self._progress()
        else:
            with ThreadPoolExecutor(REQUESTS) as pool:
                contents = zip(names, pool.map(self.read, names), strict=True)
                files = {name: content for name, content in contents if content is not None}
        lost = [name for name in names if name in self.there and name not in files]
        if lost or (PROGRESS in self.there and not files):
            what = lost[0] if lost else PROGRESS
            log.warning("pseudolabel: %s/%s is damaged, and the images in it are labeled again", self.url, what)
        return {name: files[name] for name in names if name in files}

    def _progress(self) -> dict[str, bytes]:
        """Name -> content of the files in the object of an unfinished store; {} if it is damaged or was removed.

        A file that no image of the store has an entry in is not there.
        """
        for _ in range(TRIES):
            content = self.objects.read(PROGRESS)
            with suppress(StoreError):
                files = {} if content is None else unpacked(PROGRESS, content)
                if all(map(is_undamaged, files.values())):
                    return files
        return {}

    def read(self, name: str) -> bytes | None:
        """A chunk; None if it is missing, or is damaged each time that it is read."""
        for _ in range(TRIES if name in self.there else 0):
            content = self.objects.read(name)
            if content is not None and is_undamaged(content):
                return content
        return None

    def by_shard(self, images: Iterable[int]) -> list[list[int]]:
        """Images in order, divided into those that are in the same shards."""
        return [list(group) for _, group in groupby(sorted(images), lambda image: image // self.size)]

    def _are_there(self, store: LabelStore, images: Sequence[int]) -> bool:
        """Whether all shards of images that are in the same ones are there."""
        return all(shard.name in self.there for shard in shards_of(store, self.size, images))

    def _fetch_images(self, store: LabelStore, groups: Sequence[Sequence[int]]) -> list[int]:
        """Copy the chunks of images, as `by_shard` divides them; returns the images of which all chunks were there."""
        number, found = sum(map(len, groups)), []
        progress = Progress(log, f"pseudolabel: reading labels from {self.url}", number, "images")
        with ThreadPoolExecutor(SHARD_REQUESTS) as pool:
            for images, lost in zip(groups, pool.map(partial(self._fetch_group, store), groups), strict=True):
                found += [image for image in images if image not in lost]
                progress.advance(len(images))
        if len(found) < number:
            text = "pseudolabel: %d images in %s are damaged or lost, and are labeled again"
            log.warning(text, number - len(found), self.url)
        return found

    def _fetch_group(self, store: LabelStore, images: Sequence[int]) -> set[int]:
        """Copy the chunks of images that are in the same shards; returns those that lack one."""
        lost = set()
        for shard in shards_of(store, self.size, images):
            chunks, is_whole = self.read_shard(shard.name)
            if not is_whole:
                self.there.pop(shard.name, None)  # it is sent again
            for image, name in shard.files.items():
                if image % self.size in chunks:
                    with replacing(store.path / name) as part:
                        part.write_bytes(chunks[image % self.size])
                else:
                    lost.add(image)
        return lost

    def read_shard(self, name: str) -> tuple[dict[int, bytes], bool]:
        """Position -> chunk, for those of a shard that are undamaged; and whether all are that it has."""
        sound: dict[int, bytes] = {}
        for _ in range(TRIES if name in self.there else 0):
            content = self.objects.read(name)
            with suppress(StoreError):
                chunks = chunks_in(content or b"", self.size)
                sound |= {position: chunk for position, chunk in chunks.items() if is_undamaged(chunk)}
                if sound.keys() == chunks.keys():
                    return sound, True
        return sound, False

    def add(self, store: LabelStore, image: int) -> None:
        """Send an image that is done, with others, when it is time to."""
        self.unsent.add(image)
        if time.monotonic() >= self.next_time:
            self.send(store)

    def send(self, store: LabelStore) -> None:
        """Send the shards that are complete, and then the entries of the arrays that have one for each image."""
        start = time.monotonic()
        shards: list[Shard] = []
        status = store.status
        for images in self.by_shard(self.unsent):
            first = images[0] // self.size * self.size
            of_shard = status[first : first + self.size]
            if (of_shard != ABSENT).all():
                self.unsent.difference_update(images)
                shards += shards_of(store, self.size, (first + np.flatnonzero(of_shard == DONE)).tolist())
        new = {one.name: one for one in shards if self.there.get(one.name) != one.num_bytes(store.path)}
        self._send({name: partial(one.content, store.path) for name, one in new.items()}, SHARD_REQUESTS)
        if new:
            written = [name for name in files_without_pixels(store) if is_file(store.path / name)]
            self.objects.write(PROGRESS, packed({name: (store.path / name).read_bytes() for name in written}))
        now = time.monotonic()
        self.next_time = now + max(SECONDS_TO_SEND, (now - start) / LARGEST_FRACTION)

    def _send(self, contents: Mapping[str, Callable[[], bytes]], requests: int) -> None:
        """Send objects. contents: by name; requests: at the same time"""

        def send(name: str) -> None:
            content = contents[name]()
            self.objects.write(name, content)
            self.there[name] = len(content)

        with ThreadPoolExecutor(requests) as pool:
            list(pool.map(send, contents))

    def finish(self, store: LabelStore) -> None:
        """Send what a finished store has besides its shards, the facts last."""
        texts = dict(sharded_metadata_files(store_state(store.path), self.size))
        root = texts.pop(ROOT).encode()
        entries = {name: (store.path / name).read_bytes for name in files_without_pixels(store)}
        self._send(entries | {f"{name}/{ROOT}": text.encode for name, text in texts.items()}, REQUESTS)
        self.objects.write(ROOT, root)
        self.objects.remove([PROGRESS])
        log.info("pseudolabel: the labels are in %s, too", self.url)


def files_without_pixels(store: LabelStore) -> Iterator[str]:
    """Names of the chunks of the arrays that are not in shards: they have several images in a chunk, or none."""
    for name, spec in store.specs.items():
        if not spec.has_pixels:
            yield from files_of(store, name)


def files_of(store: LabelStore, name: str) -> Iterator[str]:
    """Names of the chunks of an array."""
    return (chunk_name(name, key) for key in store.array(name).keys(...))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _arrays_of_entries(store: LabelStore) -> list[str]:
    """Names of the arrays without pixels that the stage fills image by image, besides their status."""
    return [
        name
        for name, spec in store.specs.items()
        if spec.dims[0] == "sample" and not spec.has_pixels and name not in (*COORDINATES, *STATUS_ARRAYS)
    ]


def _lost_entries(theirs: LabelStore) -> npt.NDArray[np.bool_]:
    """bool [N]: an array without pixels lacks the chunk that an image is in."""
    is_lost = np.zeros(theirs.state["num_samples"], bool)
    for array in map(theirs.array, _arrays_of_entries(theirs)):
        for key in array.keys(...):
            if not array.has_chunk(key):
                is_lost[key[0] * array.chunks[0] : (key[0] + 1) * array.chunks[0]] = True
    return is_lost


def _copy_entries(theirs: LabelStore, mine: LabelStore, images: Sequence[int]) -> None:
    """Copy what the arrays without pixels have of some images, their status last."""
    for name in _arrays_of_entries(mine):
        array = mine.array(name)
        values = array[...]
        values[images] = theirs.read(name)[images]
        array[...] = values
    mine.mark_all(np.array(images, np.intp), DONE)

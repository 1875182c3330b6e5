"""The maps that all runs share: one file for each image, named by the digest of the image, for each annotator identity.

A row is the chunk of one image's maps, with the bytes that it has in the probability store of a run. That store is
linked to it, so the maps of several runs take the room of one, and a run keeps its maps when the cache is pruned. Rows
are written atomically, never changed, and checked by their checksum before they are used, so that any number of
processes may read and write a cache at the same time.

    CACHE/ANNOTATOR-METHOD/maps.json     facts: what the maps are, and their shape
    CACHE/ANNOTATOR-METHOD/rows/AB/ABC…  a row
    CACHE/ANNOTATOR-METHOD/claims/ABC…   locked by the process that is making the row

With a bucket of an object store behind it, a cache reads from there what it lacks, and adds to it what it has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import StoreError
from pipeline.files import remove_leftovers, replacing
from pipeline.lock import try_flock
from pipeline.names import safe_name
from pipeline.progress import Progress
from pipeline.record import is_whole, read_record, write_record
from pipeline.store.bucket import Bucket
from pipeline.store.chunked_array import is_undamaged
from pipeline.store.object_store import REQUESTS

log = logging.getLogger(__name__)

FACTS = "maps.json"
SECONDS_TO_WAIT = 0.2  # for maps that other processes make
SHARED_FACTS = ("annotator", "method", "space", "dtype", "maps", "grid", "class_names", "class_prompts")
"""Facts of a store that hold for all images of its annotator."""


class MapCache:
    """The maps of one annotator identity.

    folder:    of the identity
    bucket:    of an object store that is behind the folder; None without one
    num_added: rows that were added by this object
    held:      digest -> lock of each row that this process has claimed

    raises: BucketError in all methods that read or write rows, if the bucket cannot be reached
    """

    def __init__(self, folder: Path, bucket: Bucket | None = None) -> None:
        self.folder = folder
        self.bucket = bucket
        self.num_added = 0
        self.held: dict[str, contextlib.ExitStack] = {}

    @staticmethod
    def of(cache: Path, url: str | None, annotator: str, method: str) -> MapCache:
        """The cache of an annotator.

        url:    of the object store that is behind the folder `cache`; None without one
        method: fingerprint of all that its maps depend on besides the image
        """
        name = f"{safe_name(annotator)}-{method}"
        return MapCache(cache / name, None if url is None else Bucket(url, name))

    def facts(self) -> dict[str, Any] | None:
        """What `write_facts` wrote; None if nothing was, or it is damaged: it is then written again."""
        file = self.folder / FACTS
        if self.bucket is not None and not file.is_file() and (content := self.bucket.objects.read(FACTS)) is not None:
            with replacing(file) as part:
                part.write_bytes(content)
        return read_record(file, "") if is_whole(file) else None

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write what the maps are, from the facts of a store that has them, unless it is there."""
        if self.facts() is None:
            write_record(self.folder / FACTS, {name: facts[name] for name in SHARED_FACTS})
        if self.bucket is not None and self.bucket.objects.read(FACTS) is None:
            self.bucket.objects.write(FACTS, (self.folder / FACTS).read_bytes())

    def row(self, digest: str) -> Path:
        return self.folder / "rows" / digest[:2] / digest

    def has(self, digest: str) -> bool:
        return self.row(digest).is_file() or (self.bucket is not None and digest in self.bucket.places)

    def rows(self) -> Iterator[Path]:
        """The files of all rows."""
        return (path for path in self.folder.glob("rows/??/*") if ".part" not in path.name)

    def read(self, digest: str) -> bytes | None:
        """The bytes of a row; None if there is none. A damaged row is removed, and this is logged."""
        content = self._read_from_disk(digest)
        if self.bucket is None:
            return content
        if content is not None:
            if digest not in self.bucket.places:  # made without the bucket, or before an upload failed
                self.bucket.write(digest, content)
            return content
        content = self.bucket.read(digest)
        if content is not None:
            self._write_to_disk(digest, content)
        return content

    def fetch(self, digests: Iterable[str]) -> None:
        """Copy those rows from the bucket that it has and the folder lacks, several at a time."""
        if self.bucket is None:
            return
        missing = [one for one in digests if one in self.bucket.places and not self.row(one).is_file()]
        if missing:
            progress = Progress(log, f"annotate: reading maps from {self.bucket.url}", len(missing), "images")
            with ThreadPoolExecutor(REQUESTS) as pool:
                for _ in pool.map(self.read, missing):
                    progress.advance()

    def _read_from_disk(self, digest: str) -> bytes | None:
        row = self.row(digest)
        try:
            content = row.read_bytes()
        except FileNotFoundError:
            return None
        if is_undamaged(content):
            return content
        log.warning("annotate: %s is damaged and is made again", row)
        row.unlink(missing_ok=True)
        return None

    def _write_to_disk(self, digest: str, content: bytes) -> None:
        with replacing(self.row(digest)) as part:
            part.write_bytes(content)

    def add(self, digest: str, content: bytes) -> None:
        """Write a row. content: bytes of `encode_chunk`"""
        self._write_to_disk(digest, content)
        if self.bucket is not None:
            self.bucket.write(digest, content)
        self.num_added += 1

    def adopt(self, digest: str, chunk: Path) -> None:
        """Make a chunk of a run's store a row, if there is none."""
        if not self.has(digest) and chunk.is_file() and is_undamaged(chunk.read_bytes()):
            _link(chunk, self.row(digest))

    def give(self, digest: str, chunk: Path) -> bool:
        """Make a row a chunk of a run's store; False if there is no such row, or it is damaged."""
        if self.read(digest) is None:
            return False
        with contextlib.suppress(FileNotFoundError):  # pruned in this moment
            _link(self.row(digest), chunk)
            return True
        return False

    def __enter__(self) -> MapCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.release(list(self.held))

    def claim(self, digest: str) -> bool:
        """Whether this process is to make a row; False if another one that is alive does.

        A claim ends with `release`, or with the process. Where the disk cannot lock files, every claim succeeds: a row
        may then be made twice, with the same bytes.
        """
        if digest in self.held:
            return False
        held = try_flock(self.folder / "claims" / digest)
        if held is None:
            return False
        self.held[digest] = held
        return True

    def claim_or_wait(self, name: str) -> None:
        """Claim a row, or anything else with a name, when no other process that is alive has it."""
        has_waited = False
        while name not in self.held and not self.claim(name):
            if not has_waited:
                log.info("annotate: waiting for maps that another process makes")
                has_waited = True
            time.sleep(SECONDS_TO_WAIT)

    def release(self, digests: Iterable[str]) -> None:
        """Give up claims, whether their rows were made or not."""
        for digest in digests:
            (self.folder / "claims" / digest).unlink(missing_ok=True)
            self.held.pop(digest).close()

    def remove_ended_claims(self) -> None:
        """Remove the files of claims whose processes were killed."""
        for path in self.folder.glob("claims/*"):
            if self.claim(path.name):
                self.release([path.name])


class Summary(NamedTuple):
    """A cache in numbers. num_used: rows that a run's store is linked to"""

    cache: MapCache
    facts: dict[str, Any]
    num_rows: int
    num_used: int
    num_bytes: int
    num_claims: int


def caches_in(folder: Path, url: str | None) -> list[MapCache]:
    """The caches of all annotator identities, by name; StoreError if the folder does not exist.

    url: of the object store that is behind the folder; None without one
    """
    if not folder.is_dir():
        raise StoreError(f"no maps at {folder}; annotate a run first, or name the folder of the setting `cache`")
    folders = [path for path in sorted(folder.iterdir()) if (path / "rows").is_dir()]
    return [MapCache(path, None if url is None else Bucket(url, path.name)) for path in folders]


def summary(cache: MapCache) -> Summary:
    rows = [row.stat() for row in cache.rows()]
    used, num_bytes = sum(row.st_nlink > 1 for row in rows), sum(row.st_size for row in rows)
    claims = sum(not _is_free(path) for path in cache.folder.glob("claims/*"))
    return Summary(cache, cache.facts() or {}, len(rows), used, num_bytes, claims)


def prune_rows(cache: MapCache, is_all: bool) -> tuple[int, int]:
    """Remove the rows that no run's store is linked to, or all; returns their number and their bytes.

    Runs keep the maps that they are linked to. On a disk without hard links, runs have copies, and no row is in use.

    raises: StoreError if a process makes rows of the cache
    """
    refuse_claimed(cache)
    removed = []
    for row in cache.rows():
        status = row.stat()
        if is_all or status.st_nlink == 1:
            row.unlink()
            removed.append(status.st_size)
    remove_leftovers(cache.folder, below=True)
    if next(cache.rows(), None) is None:
        shutil.rmtree(cache.folder)
    return len(removed), sum(removed)


def damaged_rows(cache: MapCache) -> Iterator[tuple[Path, bool]]:
    """Every row, and whether it is damaged."""
    for row in cache.rows():
        yield row, not is_undamaged(row.read_bytes())


def refuse_claimed(cache: MapCache) -> None:
    """StoreError if a process makes rows of the cache."""
    if not all(map(_is_free, cache.folder.glob("claims/*"))):
        raise StoreError(f"a process writes maps to {cache.folder}; wait until it has finished, or stop it")


def _is_free(claim: Path) -> bool:
    held = try_flock(claim)
    if held is None:
        return False
    held.close()
    return True


def _link(source: Path, target: Path) -> None:
    """Make a hard link that replaces the target, or a copy where the disk has no hard links or is another one."""
    with replacing(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)

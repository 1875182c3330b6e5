"""The rows of a cache of maps in an object store (S3, Google Cloud Storage, Azure), which several machines share.

The names are those of the folder of the cache on a disk (`map_cache`), and a row has the same bytes. Many rows can be
packed into one object (`packs`), because a million small objects are slow to list. An object store
has no locks: two machines that annotate the same image at the same moment both make its maps, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import Any

from pipeline.errors import BucketError, StoreError, first_line
from pipeline.files import content_digest
from pipeline.store.chunked_array import is_undamaged
from pipeline.store.packs import Place, index_bytes, packed, places_in

log = logging.getLogger(__name__)

TRIES = 3  # to read a row undamaged
REQUESTS = 16  # at the same time
PACK_BYTES = 128 << 20
FIRST_TAIL = 64 << 10  # bytes at the end of a pack that are read first
PATIENCE = {"max_retries": 5, "retry_timeout": timedelta(minutes=3)}  # of one request


class Bucket:
    """The rows of one annotator identity below a URL, such as s3://bucket/maps.

    Credentials and the address of the server are read from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

    raises: BucketError in all methods, for a store that cannot be reached, or refuses
    """

    def __init__(self, url: str, name: str) -> None:
        self.url = f"{url.rstrip('/')}/{name}"

    @cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError:
            raise BucketError(
                f"cache {self.url} needs the package obstore; run pip install 'conformalsam[cloud]'"
            ) from None
        options = {"mkdir": True} if self.url.startswith("file:") else {"retry_config": PATIENCE}
        with self._explained("opened"):
            return from_url(self.url, **options)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Context in which an error of the object store is a BucketError. A missing object is FileNotFoundError."""
        try:
            yield
        except (FileNotFoundError, BucketError):
            raise
        except Exception as error:  # obstore's have no common class but this
            raise BucketError(
                f"{self.url} cannot be {what} ({first_line(error)}); check the bucket, the credentials "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION) and, unless the server is Amazon's, "
                "AWS_ENDPOINT_URL, then run the same command again: finished maps are kept"
            ) from error

    @cached_property
    def places(self) -> dict[str, Place | None]:
        """Digest -> place of each row in a pack, or None of a row that is an object of its own.

        They are those that were there when this was asked first, and those that this process has added.
        """
        places: dict[str, Place | None] = {}
        with ThreadPoolExecutor(REQUESTS) as pool:
            for of_pack in pool.map(self._places_in, [name for name, _ in self._listed("packs")]):
                places |= of_pack
        return places | {name.rpartition("/")[2]: None for name, _ in self._listed("rows")}

    def _places_in(self, pack: str) -> dict[str, Place]:
        """Digest -> place of each row of a pack; {} if its index stays damaged, and this is logged."""
        for _ in range(TRIES):
            tail = self._read(pack, {"suffix": FIRST_TAIL})
            if tail is not None and index_bytes(tail) > len(tail):
                tail = self._read(pack, {"suffix": index_bytes(tail)})
            if tail is None:  # packed again in this moment
                return {}
            with suppress(StoreError):
                return places_in(pack, tail)
        log.warning("annotate: %s/%s has a damaged index, and its maps are made again", self.url, pack)
        return {}

    def num_bytes(self) -> int:
        """Bytes of all rows and packs."""
        return sum(size for folder in ("packs", "rows") for _, size in self._listed(folder))

    def _listed(self, folder: str) -> Iterator[tuple[str, int]]:
        """Name and bytes of each object in a folder."""
        import obstore

        with self._explained("listed"):
            for page in obstore.list(self._store, folder):
                for one in page:
                    yield one["path"], one["size"]

    def read(self, digest: str) -> bytes | None:
        """The bytes of a row; None if there is none, or it is damaged each time that it is read, and this is logged."""
        for _ in range(TRIES):
            place = self.places.get(digest)
            content = self.read_file(_name(digest)) if place is None else self._read(place.pack, _range(place))
            if content is not None and is_undamaged(content):
                return content
            if content is None:
                if digest not in self.places:
                    return None
                self.__dict__.pop("places", None)  # another process has packed it since
        log.warning("annotate: %s: map %s is damaged", self.url, digest)
        return None

    def write(self, digest: str, content: bytes) -> None:
        """Write a row. A reader finds it whole or not at all."""
        self.write_file(_name(digest), content)
        self.places[digest] = None

    def remove(self, digest: str) -> None:
        """Remove a row that is an object of its own. One in a pack stays; where it is damaged, it counts as missing."""
        if self.places.get(digest) is None:
            self._delete([_name(digest)])
            self.places.pop(digest, None)

    def pack(self, most_bytes: int = PACK_BYTES) -> Iterator[tuple[str, int]]:
        """Move rows that are objects of their own into packs; yields the name of each pack and the number of its rows.

        Packs are written before rows are removed, so a row can be read at any time. Damaged rows stay.

        most_bytes: of the rows of a pack
        """
        group: list[str] = []
        total = 0
        for name, size in sorted(self._listed("rows")):
            if group and total + size > most_bytes:
                yield self._pack(group)
                group, total = [], 0
            group.append(name.rpartition("/")[2])
            total += size
        if group:
            yield self._pack(group)

    def _pack(self, digests: Sequence[str]) -> tuple[str, int]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            contents = zip(digests, pool.map(self.read, digests), strict=True)
            rows = {digest: content for digest, content in contents if content is not None}
        content = packed(rows)
        name = f"packs/{content_digest(content)}"
        self.write_file(name, content)
        self._delete([_name(digest) for digest in rows])
        self.places.update(places_in(name, content))
        return name, len(rows)

    def _delete(self, names: Sequence[str]) -> None:
        import obstore

        with self._explained("written"), suppress(FileNotFoundError):
            obstore.delete(self._store, list(names))

    def _read(self, name: str, part: Any) -> bytes | None:
        """A part of an object; None if there is no such object. part: as the option `range` of obstore.get"""
        import obstore

        try:
            with self._explained("read"):
                content: bytes = obstore.get(self._store, name, options={"range": part}).bytes().to_bytes()
                return content
        except FileNotFoundError:
            return None

    def read_file(self, name: str) -> bytes | None:
        """Content of a file of the cache, by its path in the folder; None if there is none."""
        import obstore

        try:
            with self._explained("read"):
                content: bytes = obstore.get(self._store, name).bytes().to_bytes()
                return content
        except FileNotFoundError:
            return None

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the cache, by its path in the folder."""
        import obstore

        try:
            with self._explained("written"):
                obstore.put(self._store, name, content)
        except FileNotFoundError as error:
            raise BucketError(
                f"{self.url} cannot be written: there is no such bucket; create it, or name another one in the setting "
                "`cache`"
            ) from error


def _name(digest: str) -> str:
    return f"rows/{digest[:2]}/{digest}"


def _range(place: Place) -> tuple[int, int]:
    return place.offset, place.offset + place.length

"""The rows of a cache of maps in an object store, which several machines share.

The names are those of the folder of the cache on a disk (`map_cache`), and a row has the same bytes. Many rows can be
packed into one object (`packs`), because a million small objects are slow to list. An object store
has no locks: two machines that annotate the same image at the same moment both make its maps, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property

from pipeline.errors import StoreError
from pipeline.files import content_digest
from pipeline.store.chunked_array import is_undamaged
from pipeline.store.object_store import REQUESTS, TRIES, ObjectStore
from pipeline.store.packs import Place, index_bytes, packed, places_in

log = logging.getLogger(__name__)

PACK_BYTES = 128 << 20
TAIL = 64 << 10  # bytes at the end of a pack that are read first


class Bucket:
    """The rows of one annotator identity in the folder `name` below the URL of the setting `cache`.

    raises: BucketError in all methods, for a store that cannot be reached, or refuses
    """

    def __init__(self, url: str, name: str) -> None:
        self.objects = ObjectStore(f"{url.rstrip('/')}/{name}", "cache")

    @property
    def url(self) -> str:
        return self.objects.url

    @cached_property
    def places(self) -> dict[str, Place | None]:
        """Digest -> place of each row in a pack, or None of a row that is an object of its own.

        They are those that were there when this was asked first, and those that this process has added.
        """
        places: dict[str, Place | None] = {}
        with ThreadPoolExecutor(REQUESTS) as pool:
            for of_pack in pool.map(lambda pack: self._places_in(*pack), self.objects.listed("packs")):
                places |= of_pack
        return places | {name.rpartition("/")[2]: None for name, _ in self.objects.listed("rows")}

    def _places_in(self, pack: str, size: int) -> dict[str, Place]:
        """Digest -> place of each row of a pack of some bytes; {} if its index stays damaged, and this is logged."""
        for _ in range(TRIES):
            tail = self._tail(pack, size, TAIL)
            if tail is not None and index_bytes(tail) > len(tail):
                tail = self._tail(pack, size, index_bytes(tail))
            if tail is None:  # packed again in this moment
                return {}
            with suppress(StoreError):
                return places_in(pack, tail)
        log.warning("annotate: %s/%s has a damaged index, and its maps are made again", self.url, pack)
        return {}

    def _tail(self, pack: str, size: int, length: int) -> bytes | None:
        """The last bytes of a pack. Its size is given, because not every object store counts from the end."""
        return self.objects.read(pack, (max(0, size - length), size))

    def num_bytes(self) -> int:
        """Bytes of all rows and packs."""
        return sum(size for folder in ("packs", "rows") for _, size in self.objects.listed(folder))

    def read(self, digest: str) -> bytes | None:
        """The bytes of a row; None if there is none, or it is damaged each time that it is read, and this is logged."""
        for _ in range(TRIES):
            place = self.places.get(digest)
            if place is None:
                content = self.objects.read(_name(digest))
            else:
                content = self.objects.read(place.pack, (place.offset, place.offset + place.length))
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
        self.objects.write(_name(digest), content)
        self.places[digest] = None

    def remove(self, digest: str) -> None:
        """Remove a row that is an object of its own. One in a pack stays; where it is damaged, it counts as missing."""
        if self.places.get(digest) is None:
            self.objects.remove([_name(digest)])
            self.places.pop(digest, None)

    def pack(self, most_bytes: int = PACK_BYTES) -> Iterator[tuple[str, int]]:
        """Move rows that are objects of their own into packs; yields the name of each pack and the number of its rows.

        Packs are written before rows are removed, so a row can be read at any time. Damaged rows stay.

        most_bytes: of the rows of a pack
        """
        group: list[str] = []
        total = 0
        for name, size in sorted(self.objects.listed("rows")):
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
        self.objects.write(name, content)
        self.objects.remove(map(_name, rows))
        self.places.update(places_in(name, content))
        return name, len(rows)


def _name(digest: str) -> str:
    return f"rows/{digest[:2]}/{digest}"

"""Packs: many rows in one object of an object store, with an index at its end, so that one row can be read alone.

row, row, ..., index as JSON {digest: [offset, length]}, footer: bytes of the index, CRC-32 of the index
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.errors import StoreError

FOOTER = struct.Struct("<QI")


class Place(NamedTuple):
    """Where a row is. pack: name of the object; offset, length: its bytes there"""

    pack: str
    offset: int
    length: int


def packed(rows: Mapping[str, bytes]) -> bytes:
    """The content of a pack. rows: digest -> bytes"""
    index, offset = {}, 0
    for digest, content in rows.items():
        index[digest] = (offset, len(content))
        offset += len(content)
    text = json.dumps(index, separators=(",", ":")).encode()
    return b"".join([*rows.values(), text, FOOTER.pack(len(text), zlib.crc32(text))])


def index_bytes(tail: bytes) -> int:
    """Bytes of the index and the footer, from the last bytes of a pack; 0 if these are too few for a footer."""
    return FOOTER.unpack(tail[-FOOTER.size :])[0] + FOOTER.size if len(tail) >= FOOTER.size else 0


def places_in(pack: str, tail: bytes) -> dict[str, Place]:
    """Digest -> place of each row of a pack.

    tail:   its last bytes, at least `index_bytes`
    raises: StoreError for a damaged index
    """
    length, checksum = FOOTER.unpack(tail[-FOOTER.size :]) if len(tail) >= FOOTER.size else (0, 0)
    text = tail[-FOOTER.size - length : -FOOTER.size]
    if not length or len(text) != length or zlib.crc32(text) != checksum:
        raise StoreError(f"{pack} has no index, or a damaged one")
    return {digest: Place(pack, *span) for digest, span in json.loads(text).items()}


def unpacked(pack: str, content: bytes) -> dict[str, bytes]:
    """The rows of a whole pack by digest; StoreError for a damaged index."""
    places = places_in(pack, content)
    return {digest: content[place.offset : place.offset + place.length] for digest, place in places.items()}

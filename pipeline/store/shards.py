"""Shards: the chunks of several images in one object of an object store, where a chunk alone is too small an object.

A shard has the chunks as they are in the files of a store on a disk, then an index, (offset, length) of each, and the
checksum of the index. This is the codec `sharding_indexed` of Zarr v3, so every reader of Zarr reads one chunk alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import StoreError
from pipeline.store.chunked_array import CHECKSUM, CHECKSUM_BYTES, is_undamaged
from pipeline.store.group import Store

SHARD_BYTES = 16 << 20  # of the chunks of a shard, before they are compressed; a request ends after 30 s
NOT_THERE = 2**64 - 1  # offset and length of a chunk that a shard lacks
INDEX_ENTRY_BYTES = 16


def images_per_shard(store: Store) -> int:
    """Number of images in a shard, the same for all arrays with pixels."""
    specs = [spec for spec in store.specs.values() if spec.has_pixels]
    largest = max(math.prod(spec.chunks) * np.dtype(spec.dtype).itemsize for spec in specs)
    return max(1, min(int(store.state["num_samples"]), SHARD_BYTES // largest))


class Shard(NamedTuple):
    """A shard of an array.

    name:  of its object, below that of its store
    size:  images that it has room for
    files: image -> name of its chunk in a store on a disk, for the images that it has
    """

    name: str
    size: int
    files: dict[int, str]

    def content(self, folder: Path) -> bytes:
        """Its bytes, from the folder of a store; FileNotFoundError if it lacks a chunk."""
        chunks = {image % self.size: (folder / file).read_bytes() for image, file in self.files.items()}
        return sharded(chunks, self.size)

    def num_bytes(self, folder: Path) -> int:
        """Length of `content`. No chunk is read."""
        chunks = sum((folder / file).stat().st_size for file in self.files.values())
        return chunks + self.size * INDEX_ENTRY_BYTES + CHECKSUM_BYTES


def shards_of(store: Store, size: int, images: Sequence[int]) -> Iterator[Shard]:
    """The shards of some images: one of each array with pixels, and of each alpha.

    size:   images that a shard has room for
    images: that are in the same shard
    """
    number = images[0] // size
    for name, spec in store.specs.items():
        if spec.has_pixels:
            axis = spec.dims.index("sample")
            one = tuple(images[0] if dim == "sample" else slice(None) for dim in spec.dims)
            for key in store.array(name).keys(one):
                before, after = key[:axis], key[axis + 1 :]
                files = {image: chunk_name(name, (*before, image, *after)) for image in images}
                yield Shard(chunk_name(name, (*before, number, *after)), size, files)


def is_shard(name: str) -> bool:
    """Whether an object is a shard, by its name: an array with pixels has three axes or more."""
    return name.count("/") >= len(("c", "sample", "y", "x"))


def sharded(chunks: Mapping[int, bytes], size: int) -> bytes:
    """The content of a shard. chunks: position -> bytes, for positions below `size`"""
    index, offset = np.full((size, 2), NOT_THERE, "<u8"), 0
    for position, chunk in chunks.items():
        index[position] = offset, len(chunk)
        offset += len(chunk)
    return b"".join([*chunks.values(), CHECKSUM.encode(index.tobytes()).tobytes()])


def chunks_in(shard: bytes, size: int) -> dict[int, bytes]:
    """Position -> bytes of each chunk in a shard for `size` chunks; StoreError for a damaged index."""
    index = shard[-size * INDEX_ENTRY_BYTES - CHECKSUM_BYTES :]
    if len(index) != size * INDEX_ENTRY_BYTES + CHECKSUM_BYTES or not is_undamaged(index):
        raise StoreError(f"a shard of {size} chunks has no index, or a damaged one")
    places = np.frombuffer(index[:-CHECKSUM_BYTES], "<u8").reshape(size, 2).tolist()
    return {
        position: shard[offset : offset + length]
        for position, (offset, length) in enumerate(places)
        if offset != NOT_THERE
    }


def chunk_name(array: str, key: tuple[int, ...]) -> str:
    """Name of a chunk or shard, below that of its store."""
    return f"{array}/c/{'/'.join(map(str, key))}"

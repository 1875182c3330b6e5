"""One array of a store, read and written by whole chunks in the thread that calls.

What is written here is to the byte what zarr writes, and every reader of Zarr v3 reads it. zarr itself runs each call
in an event loop of its own, which hands every file and every compressed chunk to further threads. For the chunk of one
image that takes several times as long as the work (docs/performance.md), and our stages call from several threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Blosc, VLenUTF8, blosc
from numcodecs.checksum32 import CRC32C

from pipeline.files import is_file, replacing
from pipeline.store.arrays import FAST, SMALL, ArraySpec, Compression

Key = tuple[int, ...]
Box = tuple[slice, ...]

blosc.use_threads = False  # by default it locks all threads but the main one out; zarr sets the same

TEXT = VLenUTF8()
COMPRESSORS = {of: Blosc(cname=of.name, clevel=of.level, shuffle=Blosc.SHUFFLE) for of in (SMALL, FAST)}
CHECKSUM = CRC32C(location="end")
CHECKSUM_BYTES = 4
SIZE_IN_HEADER = slice(4, 8)  # of a chunk compressed by Blosc: its uncompressed bytes, little-endian


def encode_chunk(values: npt.NDArray[Any], compression: Compression) -> bytes:
    """Bytes of a chunk as it is stored; values of dtype object are texts."""
    raw = TEXT.encode(values) if values.dtype.hasobject else np.ascontiguousarray(values)
    return CHECKSUM.encode(COMPRESSORS[compression].encode(raw)).tobytes()  # type: ignore[no-any-return]


def decode_chunk(encoded: bytes, shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Values of a chunk with a shape and dtype; ValueError or RuntimeError if its bytes are damaged."""
    packed, decompressor = CHECKSUM.decode(encoded), COMPRESSORS[SMALL]  # a chunk says by which it was compressed
    if dtype.hasobject:
        texts: npt.NDArray[Any] = TEXT.decode(decompressor.decode(packed)).reshape(shape)
        return texts
    values: npt.NDArray[Any] = np.empty(shape, dtype)
    size = int.from_bytes(packed[SIZE_IN_HEADER].tobytes(), "little")
    if size != values.nbytes:
        raise ValueError(f"a chunk of {size} bytes, expected {values.nbytes}")
    decompressor.decode(packed, values)
    return values


def is_undamaged(encoded: bytes) -> bool:
    """Whether a chunk has its checksum. Nothing is decompressed. An empty file, whose checksum would be 0, has none."""
    if len(encoded) <= CHECKSUM_BYTES:
        return False
    return int(CHECKSUM.checksum(encoded[:-CHECKSUM_BYTES])) == int.from_bytes(encoded[-CHECKSUM_BYTES:], "little")


class ChunkedArray:
    """An array in the Zarr v3 format in a folder of a store; the same bytes as zarr would write.

    Selections are integers and slices of step 1 along the first axes, or an ellipsis. A chunk that is not on disk has
    the fill value everywhere. Every chunk is written, also one that has the fill value everywhere.

    raises: ValueError or RuntimeError for a damaged chunk; IndexError for an index beyond the end; OSError
    """

    def __init__(self, folder: Path, spec: ArraySpec) -> None:
        self.folder = folder
        self.shape = tuple(spec.shape)
        self.chunks = tuple(max(1, length) for length in spec.chunks)
        self.dtype = np.dtype(object if spec.dtype == "string" else spec.dtype).newbyteorder("<")
        self.fill = spec.fill
        self.compression = spec.compression

    def __getitem__(self, selection: Any) -> Any:
        box, integers = self._box(selection)
        values = np.empty([part.stop - part.start for part in box], self.dtype)
        for key, inside, outside in self._parts(box):
            values[outside] = self.read_chunk(key)[inside]
        return values[integers]

    def __setitem__(self, selection: Any, values: npt.ArrayLike) -> None:
        box, integers = self._box(selection)
        lengths = [part.stop - part.start for part in box]
        new = np.empty(lengths, self.dtype)
        new[integers] = values
        for key, inside, outside in self._parts(box):
            chunk = self._filled() if self._is_whole(key, inside) else self.read_chunk(key)
            chunk[inside] = new[outside]
            self.write_chunk(key, chunk)

    def read_chunk(self, key: Key) -> npt.NDArray[Any]:
        """Values of a chunk, of the shape `chunks`."""
        try:
            with open(self._file(key), "rb") as file:
                encoded = file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return self._filled()
        return decode_chunk(encoded, self.chunks, self.dtype)

    def write_chunk(self, key: Key, values: npt.NDArray[Any]) -> None:
        """Write a chunk; a reader sees the old one or the new one."""
        with replacing(Path(self._file(key))) as part:
            part.write_bytes(encode_chunk(values, self.compression))

    def keys(self, selection: Any = ...) -> Iterator[Key]:
        """Keys of the chunks that a selection touches: the index of a chunk along each axis."""
        box, _ = self._box(selection)
        axes = zip(box, self.chunks, strict=True)
        return itertools.product(
            *(range(part.start // size, -(-part.stop // size)) if part.start < part.stop else () for part, size in axes)
        )

    def has_chunk(self, key: Key) -> bool:
        """Whether a chunk is on disk."""
        return is_file(self._file(key))

    def _file(self, key: Key) -> str:
        return f"{self.folder}/c/{'/'.join(map(str, key))}"  # three times as fast as Path.joinpath

    def _is_whole(self, key: Key, inside: Box) -> bool:
        """Whether a part of a chunk is all of it that belongs to the array."""
        ends = (min(size, n - i * size) for n, size, i in zip(self.shape, self.chunks, key, strict=True))
        return all(part.stop - part.start == end for part, end in zip(inside, ends, strict=True))

    def _filled(self) -> npt.NDArray[Any]:
        return np.full(self.chunks, self.fill, self.dtype)

    def _box(self, selection: Any) -> tuple[Box, tuple[Any, ...]]:
        """A selection as slices along all axes; and what drops the axes that it selects by an integer."""
        parts = selection if isinstance(selection, tuple) else (selection,)
        parts = parts[:-1] if parts and parts[-1] is Ellipsis else parts
        box: list[slice] = []
        integers: list[Any] = []
        for axis, length in enumerate(self.shape):
            part = parts[axis] if axis < len(parts) else slice(None)
            if isinstance(part, slice):
                start, stop, _ = part.indices(length)
                box.append(slice(start, max(start, stop)))
                integers.append(slice(None))
            else:
                start = range(length)[part]
                box.append(slice(start, start + 1))
                integers.append(0)
        return tuple(box), tuple(integers)

    def _parts(self, box: Box) -> Iterator[tuple[Key, Box, Box]]:
        """For each chunk that a box touches: its key, the part of it in the box, and where that is in the box."""
        for key in self.keys(box):
            inside, outside = [], []
            for part, size, index in zip(box, self.chunks, key, strict=True):
                start, stop = max(part.start, index * size), min(part.stop, (index + 1) * size)
                inside.append(slice(start - index * size, stop - index * size))
                outside.append(slice(start - part.start, stop - part.start))
            yield key, tuple(inside), tuple(outside)

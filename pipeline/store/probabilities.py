"""`probs.zarr`: the class maps of every image, as the annotator returned them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import Sample
from pipeline.resample import resize_bilinear, softmax
from pipeline.store.arrays import DONE, UINT16_MAX
from pipeline.store.chunked_array import ChunkedArray
from pipeline.store.group import Handle, Store
from pipeline.store.integrity import open_store

STRIP_BYTES = 2_000_000  # measured: three to four times as fast as strips of 64 MB, for 21 and for 150 classes
MOST_LOGIT = 128  # of the largest logit of a pixel in float16, whose steps are 1/8 from here on
LARGEST_HALF = float(np.finfo(np.float16).max)


def encode_maps(maps: npt.NDArray[np.float32], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Maps as they are stored, of the given dtype. maps: float32 [K, h, w]

    uint16 is fixed point, 65535 = 1. Logits that float16 would round too much are shifted, and smaller ones than it has
    become its smallest; probabilities and all other logits are only rounded.
    """
    if np.dtype(dtype) == np.uint16:
        return np.rint(maps * UINT16_MAX).astype(dtype)
    return (_for_half(maps) if np.dtype(dtype) == np.float16 else maps).astype(dtype)


def _for_half(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Maps of an image, [K, h, w], within the range of float16.

    If the largest logit of a pixel is beyond +-MOST_LOGIT, every pixel's is subtracted from its logits. That changes no
    softmax, also after up-sampling, because all classes of a pixel are shifted by the same number. A logit that is
    65000 or more below the largest has probability 0 in float32, so that it may become -65504.
    """
    largest = maps.max(axis=0)
    shifted = maps - largest if np.abs(largest).max() > MOST_LOGIT else maps
    return np.maximum(shifted, np.float32(-LARGEST_HALF))


class ProbabilityStore(Store):
    """K class maps of every image, as the annotator returned them: (sample, class, y, x).

    The array is named for what it holds, `logits` or `probability`.
    """

    @property
    def maps(self) -> ChunkedArray:
        """The array of the maps."""
        return self.array(self.state["space"])

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid on which pixels are labeled; the stored maps may be smaller."""
        height, width = self.state["grid"]
        return height, width

    def write(self, index: int, maps: npt.NDArray[np.float32]) -> None:
        """Write the maps of one image. maps: float32 [K, h, w], logits or probabilities as the fact `space` states"""
        self.maps[index] = encode_maps(maps, self.maps.dtype)

    def chunk(self, index: int) -> Path:
        """The file of one image's maps, which holds the bytes of `encode_chunk`."""
        return self.path / f"{self.state['space']}/c/{index}/0/0/0"

    @property
    def image_digests(self) -> list[str]:
        """Digest of the image file that each image's maps were computed from: 16 hex digits, as in samples.json."""
        return [f"{number:016x}" for number in self.read("image_digest").tolist()]

    def stored_maps(self) -> Callable[[Sample], npt.NDArray[Any] | None]:
        """Function from a sample to its maps as they are stored, [K, h, w]; None for an image that is not done."""
        indices = {sample_id: i for i, sample_id in enumerate(self.sample_ids)}
        is_done = self.status == DONE

        def maps_of(sample: Sample) -> npt.NDArray[Any] | None:
            index = indices[sample.id]
            return self.read_chunk(self.state["space"], index) if is_done[index] else None

        return maps_of

    def probabilities(self, index: int) -> ProbabilityReader:
        """One image's probabilities on the grid, to be read in row strips; StoreError if they are damaged or lost."""
        values = self.read_chunk(self.state["space"], index)
        maps = values.astype(np.float32)
        if values.dtype == np.uint16:
            maps /= np.float32(UINT16_MAX)
        return ProbabilityReader(maps, self.state["space"] == "logits", self.grid)


@dataclass(frozen=True)
class ProbabilityReader:
    """Class maps of one image, up-sampled to the grid on demand.

    Logits are up-sampled before the softmax; up-sampling probabilities instead would change them by up to 0.09.

    maps: float32 [K, h, w], logits or probabilities
    """

    maps: npt.NDArray[np.float32]
    is_logits: bool
    grid: tuple[int, int]

    def rows(self, rows: slice) -> npt.NDArray[np.float32]:
        """float32 [K, rows, W]: probabilities in [0, 1]."""
        resized = resize_bilinear(self.maps, self.grid, rows)
        return softmax(resized) if self.is_logits else resized

    def strips(self) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Row strips and their float32 [K, rows, W], top to bottom; small enough for the processor's cache."""
        height, width = self.grid
        step = max(1, STRIP_BYTES // (len(self.maps) * width * 4))
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            yield rows, self.rows(rows)


def open_probabilities(where: Path | Handle, *, writable: bool = False, again: str | None = None) -> ProbabilityStore:
    """Open probs.zarr; arguments and errors as `open_store`."""
    return open_store(ProbabilityStore, "probabilities", where, writable, again)

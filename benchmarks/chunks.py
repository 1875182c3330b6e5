"""Chunks of one image, written and read through zarr and by the stores themselves: CPU time, and their ratio.

    python benchmarks/chunks.py

Both write the same bytes (tests/pipeline/store/test_chunked_array.py). Best of 5 rounds, side by side.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import zarr

from pipeline.store.arrays import ArraySpec
from pipeline.store.chunked_array import ChunkedArray
from pipeline.store.metadata import array_document

NUM_IMAGES = 40
ROUNDS = 5
ARRAYS = {
    "plane, float32 512 x 512": ((512, 512), "float32"),
    "plane, float32 128 x 128": ((128, 128), "float32"),
    "logits, float16 21 x 128 x 128": ((21, 128, 128), "float16"),
    "status, uint8 (one entry of 40)": ((), "uint8"),
}


def smooth(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values that change slowly from pixel to pixel, like those of maps."""
    if not shape:
        return np.array(1, dtype)
    axes = np.meshgrid(*(np.linspace(0, 3, length) for length in shape), indexing="ij")
    return np.sin(sum(axes) + np.random.default_rng(0).normal(0, 1e-3, shape)).astype(dtype)


def milliseconds(call: Callable[[Any, int, np.ndarray], object], array: Any, values: np.ndarray) -> float:
    """CPU time of one call, of all threads."""
    start = time.process_time()
    for index in range(NUM_IMAGES):
        call(array, index, values)
    return (time.process_time() - start) / NUM_IMAGES * 1000


def write(array: Any, index: int, values: np.ndarray) -> None:
    array[index] = values


def read(array: Any, index: int, values: np.ndarray) -> None:
    assert (array[index] == values).all()


@click.command(help=__doc__)
def main() -> None:
    zarr.config.set({"array.write_empty_chunks": True})
    print("| chunk | | zarr, ms | stores, ms | ratio |\n|---|---|---|---|---|")
    for name, (shape, dtype) in ARRAYS.items():
        chunks = (1, *shape) if shape else (NUM_IMAGES,)
        spec = ArraySpec(("sample", *"cyx"[: len(shape)]), (NUM_IMAGES, *shape), dtype, 0, chunks)
        values = smooth(shape, dtype)
        with TemporaryDirectory() as folder:
            Path(folder, "zarr.json").write_text(json.dumps(array_document(spec)))
            arrays = zarr.open_array(folder, mode="r+"), ChunkedArray(Path(folder), spec)
            for call in (write, read):
                rounds = [[milliseconds(call, array, values) for array in arrays] for _ in range(ROUNDS)]
                theirs, ours = np.min(rounds, axis=0)
                print(f"| {name} | {call.__name__} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()

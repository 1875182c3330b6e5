"""Maps in an object store, as single objects and packed: seconds to list them, and to read each of them once.

    python benchmarks/packed_maps.py --url s3://bucket/benchmark      # credentials as for the setting `cache`
    python benchmarks/packed_maps.py                                  # a folder instead of an object store

The maps are random bytes. Every map is read by a request of its own, 16 at a time, from a random place in the list.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import click
import numpy as np
from numcodecs.checksum32 import CRC32C

from pipeline.store.bucket import Bucket
from pipeline.store.object_store import REQUESTS

CHECKSUM = CRC32C(location="end")


@click.command()
@click.option("--url", help="Where to put the maps; they are not removed. Default: a temporary folder.")
@click.option("--images", default=1000, show_default=True)
@click.option("--kilobytes", default=100, show_default=True, help="Bytes of the maps of an image.")
def main(url: str | None, images: int, kilobytes: int) -> None:
    """Print seconds and ratios of listing and reading."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        name = f"run-{time.time_ns()}"
        where = url or f"file://{folder}"
        bucket = Bucket(where, name)
        for _ in range(images):
            content = CHECKSUM.encode(rng.integers(0, 256, kilobytes * 1000, dtype=np.uint8)).tobytes()
            bucket.write(rng.bytes(8).hex(), content)
        single = _seconds(Bucket(where, name), rng)
        num_packs = len(list(bucket.pack()))
        packed = _seconds(Bucket(where, name), rng)
    click.echo(
        f"| {images} maps of {kilobytes} kB | objects | s to list | s to read | images/s |\n|---|---|---|---|---|"
    )
    for how, objects, (listing, reading) in (("single", images, single), ("packed", num_packs, packed)):
        click.echo(f"| {how} | {objects} | {listing:.3f} | {reading:.2f} | {images / reading:.0f} |")
    click.echo(f"| single / packed | | {single[0] / packed[0]:.1f}x | {single[1] / packed[1]:.2f}x | |")


def _seconds(bucket: Bucket, rng: np.random.Generator) -> tuple[float, float]:
    """Seconds to list a bucket, and to read each map once."""
    start = time.perf_counter()
    digests = rng.permutation(list(bucket.places)).tolist()
    listed = time.perf_counter()
    with ThreadPoolExecutor(REQUESTS) as pool:
        assert all(content is not None for content in pool.map(bucket.read, digests))
    return listed - start, time.perf_counter() - listed


if __name__ == "__main__":
    main()

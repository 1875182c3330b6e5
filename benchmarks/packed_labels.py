"""Labels in an object store, an object for each chunk and in shards: seconds to send, to list and to fetch them.

    python benchmarks/packed_labels.py --url s3://bucket/benchmark      # credentials as for the setting `labels`
    python benchmarks/packed_labels.py                                  # a folder instead of an object store

The labels are made by calibrate and pseudolabel from the maps of stages.py. They are fetched into an empty store.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
from calibrate import Case
from stages import write_cache, write_run

from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.stages.calibrate import calibrate
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import DONE, create_store, open_labels, shards, shared_labels

NUM_LABELED = 24
WAYS = {
    "an object for each chunk": (1, shared_labels.REQUESTS),
    "shards": (shards.SHARD_BYTES, shared_labels.SHARD_REQUESTS),
}
"""What is compared -> bytes of a shard and requests at the same time."""


@click.command(help=__doc__)
@click.option("--url", help="Where to put the labels; they are not removed. Default: a temporary folder.")
@click.option("--images", default=200, show_default=True)
@click.option("--side", default=512, show_default=True, help="Of the grid.")
@click.option("--rounds", default=3, show_default=True, help="Both ways in turn; medians are printed.")
def main(url: str | None, images: int, side: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = write_labels(Path(folder), images, side)
        where = url or f"file://{folder}/objects"
        seconds: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
        objects = {}
        for number in range(rounds):
            for way, (shards.SHARD_BYTES, shared_labels.SHARD_REQUESTS) in WAYS.items():
                url_of_round = f"{where}/{time.time_ns()}"
                objects[way], of_round = measure(settings, url_of_round, Path(folder) / f"fetched-{way}-{number}")
                seconds[way].append(of_round)
    click.echo(f"| labels of {images} images of {side} x {side} | objects | s to send | s to list | s to fetch |")
    click.echo("|---|---|---|---|---|")
    for way, rows in seconds.items():
        medians = " | ".join(f"{median:.2f}" for median in np.median(rows, axis=0))
        click.echo(f"| {way} | {objects[way]} | {medians} |")
    single, packed = map(np.array, seconds.values())
    ratios = (f"{min(of):.1f} to {max(of):.1f}x" for of in (single / packed).T)
    click.echo(f"| ratio | | {' | '.join(ratios)} |")


def write_labels(folder: Path, images: int, side: int) -> Settings:
    """Settings of a run with labels.zarr."""
    case = Case(NUM_LABELED, 21, side)
    write_cache(folder, case, images)
    settings = load_settings(write_run(folder, case, NUM_LABELED, images))
    for stage in (calibrate, pseudolabel):
        Run(settings).finish(stage.__name__, stage(settings))
    return settings


def measure(settings: Settings, url: str, empty: Path) -> tuple[int, tuple[float, ...]]:
    """Number of objects; seconds to send labels, to list them, and to fetch them into a new store in a folder."""
    store = open_labels(Run(settings).folder.labels)
    start = time.perf_counter()
    sender = shared_labels.SharedLabels.behind(store, url)
    sender.unsent = set(range(len(store.sample_ids)))
    sender.send(store)
    sender.finish(store)
    sent = time.perf_counter()
    facts = {name: value for name, value in store.state.items() if name not in ("kind", "layout", "num_samples")}
    create_store(empty, "labels", facts | {"complete": False}, Run(settings).samples().of("unlabeled"))
    mine = open_labels(empty, writable=True)
    reader = shared_labels.SharedLabels.behind(mine, url)
    created = time.perf_counter()
    num_objects = len(reader.there)
    listed = time.perf_counter()
    reader.fetch(mine)
    fetched = time.perf_counter()
    assert (mine.status == DONE).all()
    return num_objects, (sent - start, listed - created, fetched - listed)


if __name__ == "__main__":
    main()

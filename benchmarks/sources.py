"""Cost of comparing every image and mask that is read with its digest, and of looking for changes before a run.

    python benchmarks/sources.py voc_animals --set data.root=FOLDER
    python benchmarks/sources.py camvid --set data.root=FOLDER

Reading with and without digests takes turns in one process, and CPU time is measured, so that the ratio does not depend
on what else the machine does. A row is what a stage does with one image, up to where the image leaves the loader.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline.annotators.build import build_annotator
from pipeline.cli import run_argument
from pipeline.datasets import CHECKED, Sample, SampleIndex, image_to_grid, resize_nearest
from pipeline.settings import DataSettings, Settings
from pipeline.sources import find_samples
from pipeline.sources.stamps import has_changed
from pipeline.stages.prepare import check_sample
from train.data import Draw, TrainingImages, WholeImages

MAX_IMAGES = 40
ROUNDS = 5
NUM_FILES = 12_000


class Unproven(SampleIndex):
    """Reads files without looking at their digests."""

    def _checked_bytes(self, name: str, expected: str) -> bytes:
        return (self.root / name).read_bytes()


class Forgetful(SampleIndex):
    """Reads every file as if for the first time."""

    def _checked_bytes(self, name: str, expected: str) -> bytes:
        CHECKED.clear()
        return super()._checked_bytes(name, expected)


def with_digests(data: DataSettings, samples: Sequence[Sample]) -> SampleIndex:
    """The samples with their sizes and digests, as prepare lists them."""
    return SampleIndex(Path(data.root), tuple(check_sample(sample, data, None).sample for sample in samples))


def some_samples(data: DataSettings) -> list[Sample]:
    """At most MAX_IMAGES samples of each split."""
    found = find_samples(data)[0]
    few = [[one for one in found if one.split == split][:MAX_IMAGES] for split in ("labeled", "unlabeled", "val")]
    return [sample for split in few for sample in split]


def milliseconds(calls: Sequence[Callable[[Any], object]], items: Sequence[Any]) -> list[float]:
    """CPU time of each call on an item, the least of all rounds, the mean over items; the calls take turns."""
    least = np.full((len(calls), len(items)), np.inf)
    for number in range(ROUNDS):
        for position, item in enumerate(items):
            for offset in range(len(calls)):
                call = (number + position + offset) % len(calls)
                start = time.process_time()
                calls[call](item)
                least[call, position] = min(least[call, position], 1e3 * (time.process_time() - start))
    return least.mean(axis=1).tolist()


def print_row(what: str, items: int, without: float, first: float, again: float) -> None:
    more = " | ".join(f"{100 * (proven - without) / without:+.1f} %" for proven in (first, again))
    click.echo(f"| {what} | {items} | {without:.2f} | {first:.2f} | {again:.2f} | {more} |")


def compare(settings: Settings) -> None:
    """Print a table: milliseconds of an image without and with digests."""
    data = settings.data
    index = with_digests(data, some_samples(data))
    plain, forgetful = (kind(index.root, index.samples) for kind in (Unproven, Forgetful))
    labeled, unlabeled, val = index.of("labeled"), index.of("unlabeled"), index.of("val")
    sizes = [os.path.getsize(index.root / sample.image) / 1e3 for sample in index.samples]
    click.echo(f"{settings.name}: {len(index.samples)} images of {np.mean(sizes):.0f} kB\n")
    click.echo("| what reads | images | CPU ms per image without | first read | read again | first | again |")
    click.echo("|---|---|---|---|---|---|---|")

    def row(what: str, work: Callable[[SampleIndex], Callable[[Any], object]], items: Sequence[Any]) -> None:
        print_row(what, len(items), *milliseconds([work(plain), work(forgetful), work(index)], items))

    row("reader: image", lambda one: one.image, index.samples)
    row("reader: mask", lambda one: lambda sample: one.mask(sample, data), labeled)
    annotator = build_annotator(settings)
    row("annotate", lambda one: lambda s: annotator(image_to_grid(one.image(s), data.grid)[np.newaxis]), unlabeled[:8])
    draws = [Draw(0, i) for i in range(len(labeled))]
    row("loader of training, labeled", lambda one: training(one, labeled, settings).__getitem__, draws)
    draws = [Draw(0, i) for i in range(len(unlabeled))]
    row("loader of training, unlabeled", lambda one: training(one, unlabeled, settings).__getitem__, draws)
    row("loader of evaluate", lambda one: WholeImages(one, val, data).__getitem__, range(len(val)))
    row("calibrate: mask on the grid", lambda one: lambda s: resize_nearest(one.mask(s, data), data.grid), labeled)


def training(index: SampleIndex, samples: Sequence[Sample], settings: Settings) -> TrainingImages:
    return TrainingImages(index, samples, settings.data, settings.train, "benchmark")


def look_for_changes(settings: Settings) -> None:
    """Print the seconds of looking for changes among NUM_FILES small images, untouched and all touched."""
    sample = next(one for one in find_samples(settings.data)[0] if one.split == "labeled")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        for folder, source in (("images", sample.image), ("masks", str(sample.mask))):
            (root / folder).mkdir(parents=True)
            for i in range(NUM_FILES // 2):
                shutil.copy(Path(settings.data.root) / source, root / folder / f"{i:05}{Path(source).suffix}")
        tree = settings.data.model_dump() | {"root": str(root), "layout": "folder", "images": None, "masks": None}
        data = type(settings.data).model_validate(
            tree | {"splits": {"num_labeled": NUM_FILES // 2 - 101, "num_val": 100}}
        )
        index = with_digests(data, find_samples(data)[0])
        stamps = Path(name) / "stamps.json"
        click.echo(f"\n| {NUM_FILES} files | wall s | CPU s |\n|---|---|---|")
        for what in ("never seen: all are read", "as they were", "as they were, again"):
            print_seconds(what, data, index, stamps)
        for path in root.rglob("*.*"):
            os.utime(path)
        print_seconds("all with new times: all are read", data, index, stamps)


def print_seconds(what: str, data: Any, index: SampleIndex, stamps: Path) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    assert not has_changed(data, index, stamps)
    click.echo(f"| {what} | {time.perf_counter() - start:.2f} | {time.process_time() - cpu:.2f} |")


@click.command()
@run_argument
def main(settings: Settings) -> None:
    """Measure a run whose images and annotator are there."""
    compare(settings)
    look_for_changes(settings)


if __name__ == "__main__":
    main()

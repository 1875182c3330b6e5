"""A training step of ours, compared with one of the public scripts: `python benchmarks/train_step.py`.

Both have the same network size, crop, batch (4, or 2 + 2), random weights, JPEG photographs of 500 x 375 and 21
classes; data loading is included. `--student efficientnet-lite0 --crop 193 --batch 8 --threads 1` compares our small
student with a plain implementation of the same network (plain_efficientnet.py). Ours is a step of `train.engine.loop`;
the other is published_training.py. Each implementation runs in a separate process that keeps its loaders. The processes
take turns, one block of steps each per round; a process that is not measured is stopped together with its workers.
ms/step and images/s are of the median block; CPU ms/step of all blocks, with the workers. "Faster" is the median over
the rounds of the ratio of the two blocks of a round, with its range. Peak is the memory of the process without its
workers, on a GPU the memory allocated by torch. Data wait is the fraction of the time spent waiting for a batch.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from calibrate import print_header, resident
from PIL import Image
from plain_efficientnet import PlainEfficientNet
from published_training import RECIPES, Entry, Lists, PublishedTraining
from torch import nn
from transformers import SegformerForSemanticSegmentation

from calib import Planes, observe
from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, class_index, load_samples, resize_nearest, save_samples
from pipeline.demo.scenes import draw_scene
from pipeline.files import file_digest, write_json
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.store import DONE, OUTCOMES, create_store, open_labels
from train import stage1, stage2
from train.data import training_batches
from train.engine.loop import TimedBatches
from train.engine.stage import Stage, own_draws
from train.engine.state import new_state
from train.engine.step import step_seed, training_step
from train.recipe import new_student
from train.students.segformer import ARCHITECTURES, segformer_config

SIZE, GRID, NUM_CLASSES = (375, 500), (512, 512), 21
NUM_LABELED, NUM_UNLABELED = 16, 32
IMAGES_A_STEP = 4
PLAIN = "efficientnet-lite0"  # the student that is compared with a network of this folder, not of transformers
ABSTAINING = 0.1  # fraction of the pixels of a pseudo-label
CLASS_NAMES = ["background", *(f"class {k}" for k in range(1, NUM_CLASSES))]
MANY_EPOCHS = 100_000  # no measurement reaches the end of a stage
LABELS_FINGERPRINT = "1abe15"

STAGES = {"paper stage1": "paper, Stage I", "paper stage2": "paper, Stage II", "plus stage2": "plus, Stage II"}


class Amounts(NamedTuple):
    """What is measured unless options change it."""

    students: list[str]
    crops: list[int]
    steps: int
    warm_up: int
    ways: list[str]


AMOUNTS = {
    "cpu": Amounts(["b0", "b2"], [256, 513], 5, 3, ["float32", "ours"]),
    "cuda": Amounts(["b5"], [513], 40, 20, ["float32", "bfloat16", "ours"]),
}


# Data


def write_data(folder: Path, num_labeled: int = NUM_LABELED, num_unlabeled: int = NUM_UNLABELED) -> None:
    """Write photographs, masks, samples.json, pseudo-labels as a store and as masks, and one run file per preset."""
    for kind in ("images", "masks", "pseudo"):
        (folder / kind).mkdir()
    samples, labels = [], []
    for i in range(num_labeled + num_unlabeled):
        image, mask = _scene(i)
        image_path = folder / "images" / f"{i:04}.jpg"
        Image.fromarray(image).save(image_path, quality=90)
        sample = Sample(image_path.stem, f"images/{image_path.name}", None, "unlabeled", *SIZE, file_digest(image_path))
        if i < num_labeled:
            mask_path = folder / "masks" / f"{sample.id}.png"
            Image.fromarray(mask).save(mask_path)
            of_mask = {"mask": f"masks/{mask_path.name}", "mask_digest": file_digest(mask_path)}
            sample = Sample(**{**vars(sample), "split": "labeled", **of_mask})
        else:
            labels.append(_pseudo_label(mask, i))
            as_mask = class_index(labels[-1])
            Image.fromarray(resize_nearest(as_mask, SIZE)).save(folder / "pseudo" / f"{sample.id}.png")
        samples.append(sample)
    index = SampleIndex(folder, tuple(samples))
    save_samples(folder / "run" / "samples.json", index)
    _write_labels(folder / "run", index, labels)
    for preset in ("paper", "plus"):
        write_json(folder / f"{preset}.yaml", _run_file(folder, preset))  # JSON is YAML


def _scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] and uint8 [H, W]: a scene of the demo, whose few classes are mapped to others in each scene."""
    image, mask = draw_scene(np.random.default_rng(number), ("source", "target")[number % 2], SIZE)
    is_object = (mask > 0) & (mask != IGNORE_INDEX)
    shifted = 1 + (mask.astype(int) - 1 + 5 * number) % (NUM_CLASSES - 1)
    return image, np.where(is_object, shifted, mask).astype(np.uint8)


def _pseudo_label(mask: np.ndarray, seed: int) -> np.ndarray:
    """float32 [*GRID]: the mask, with NaN where it is void and in random squares of 16 x 16 pixels."""
    label = resize_nearest(mask, GRID).astype(np.float32)
    label[label == IGNORE_INDEX] = np.nan
    squares = np.random.default_rng(seed).random([side // 16 for side in GRID]) < ABSTAINING
    label[squares.repeat(16, axis=0).repeat(16, axis=1)] = np.nan
    return label


def _write_labels(folder: Path, index: SampleIndex, labels: Sequence[np.ndarray]) -> None:
    """Write labels.zarr."""
    path, unlabeled = folder / "labels.zarr", index.of("unlabeled")
    facts = {"fingerprint": LABELS_FINGERPRINT, "class_names": CLASS_NAMES, "background": 0, "rule": "paper"}
    facts |= {"grid": list(GRID), "alphas": [0.1]}
    create_store(path, "labels", facts, unlabeled)
    store, zeros = open_labels(path, writable=True), np.zeros(GRID, np.float32)
    for i, label in enumerate(labels):
        planes = Planes(zeros.astype(np.uint8), zeros, zeros, zeros)
        store.write(i, label[np.newaxis], planes)
        counts = {"pixels": label.size, "kept": int((~np.isnan(label)).sum())}
        outcomes = np.array([counts.get(name, 0) for name in OUTCOMES], np.int32)
        store.write_counts(i, outcomes, np.zeros(NUM_CLASSES, np.int32))
        store.write_observed(i, observe(planes, 0, NUM_CLASSES))
        store.mark(i, DONE)
    store.finish()


def _run_file(folder: Path, preset: str) -> dict[str, Any]:
    return {
        "name": "run",
        "preset": preset,
        "results": str(folder),
        "data": {"root": str(folder), "classes": CLASS_NAMES, "background": "background", "grid": list(GRID)},
        "annotate": {"annotator": "python", "python": {"factory": "no:annotator"}},
        "stage1": {"epochs": MANY_EPOCHS},
        "stage2": {"epochs": MANY_EPOCHS},
    }


# The implementations, each in a separate process


class Job(NamedTuple):
    """A measurement in one process. way: "ours", or the precision of the published implementation"""

    folder: str
    way: str
    student: str
    crop: int
    stage: str
    device: str
    workers: int
    threads: int | None
    batch: int = IMAGES_A_STEP


class Way(NamedTuple):
    """An implementation of a training step."""

    batches: TimedBatches
    step: Callable[[Any], None]
    read: Callable[[], list[float]]
    """Returns the losses of the steps since the last call."""


def our_way(job: Job) -> Way:
    """The trainer's stage, state, loader and step, combined as in `train.engine.loop.train`."""
    preset, name = job.stage.split()
    train = {"student": job.student, "crop": job.crop, "device": job.device, "workers": job.workers}
    train |= {"weights": "random", "threads": job.threads}
    overrides: dict[str, Any] = {f"train.{key}": value for key, value in train.items()}
    halves = {"batch_labeled": job.batch // 2, "batch_unlabeled": job.batch // 2}
    overrides |= {"stage1.batch_size": job.batch, **{f"stage2.{key}": size for key, size in halves.items()}}
    settings = load_settings(Path(job.folder) / f"{preset}.yaml", overrides)
    compute = stage1.compute_of(settings.train)
    stage = _our_stage(settings, name)
    torch.manual_seed(settings.seed)
    state = new_state(new_student(settings, compute), settings.train, settings.data.num_classes)
    state.student.model.train()
    batches = training_batches(
        stage.images,
        lambda step: own_draws(stage, step),
        range(stage.num_steps),
        pin_memory=compute.device.type == "cuda",
    )
    pending: list[torch.Tensor] = []

    def step(examples: Any) -> None:
        torch.manual_seed(step_seed(settings.seed, stage.name, state.step))
        pending.append(training_step(state, stage, examples))

    def read() -> list[float]:
        losses = torch.stack(pending)[:, 0].tolist()
        pending.clear()
        return losses

    return Way(TimedBatches(batches), step, read)


def _our_stage(settings: Settings, name: str) -> Stage:
    rule = {"rule": "paper", "variant": "pixel", "alpha": 0.1, "alphas": [0.1]}
    made = {"num_images": NUM_UNLABELED, "num_failed": 0, "keep_rate": 1 - ABSTAINING, "shift": None}
    Run(settings).finish("pseudolabel", {"fingerprint": LABELS_FINGERPRINT, **rule, **made})
    index = load_samples(settings.folder / "samples.json")
    first = stage1.stage_of(settings, index, stage1.open_run_labels(settings))
    if name == "stage1":
        return first
    return stage2.stage_of(settings, index, {"fingerprint": first.fingerprint, "num_steps": first.num_steps})


def published_way(job: Job) -> Way:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device, recipe = torch.device(job.device), RECIPES[job.stage]
    torch.manual_seed(0)
    if job.student == PLAIN:
        network: nn.Module = PlainEfficientNet(NUM_CLASSES)
    else:
        network = SegformerForSemanticSegmentation(segformer_config(job.student, CLASS_NAMES, drop_path=0.1))
    training = PublishedTraining(network, device, job.way == "bfloat16", job.stage.startswith("plus"))
    batches = recipe.batches(_lists(Path(job.folder)), job.crop, job.batch, job.workers, device.type == "cuda")
    losses: list[float] = []

    def read() -> list[float]:
        read_before = losses.copy()
        losses.clear()
        return read_before

    return Way(TimedBatches(batches), lambda batch: losses.append(recipe.step(training, batch)), read)


def _lists(folder: Path) -> Lists:
    index = load_samples(folder / "run" / "samples.json")
    labeled = [Entry(folder / sample.image, folder / str(sample.mask)) for sample in index.of("labeled")]
    unlabeled = [Entry(folder / sample.image, None) for sample in index.of("unlabeled")]
    pseudolabeled = [Entry(entry.image, folder / "pseudo" / f"{entry.image.stem}.png") for entry in unlabeled]
    return Lists(labeled, pseudolabeled, unlabeled)


class Block(NamedTuple):
    """Wall seconds, seconds of waiting for data and CPU seconds of some steps; peak memory until then in MB."""

    seconds: float
    waiting: float
    cpu: float
    megabytes: float


def serve(job: Job) -> None:
    """For each line of the standard input, a number of steps, take the steps and print the block as JSON."""
    way = our_way(job) if job.way == "ours" else published_way(job)
    for line in sys.stdin:
        print(json.dumps(timed(way, int(line), torch.device(job.device))), flush=True)


def timed(way: Way, num_steps: int, device: torch.device) -> Block:
    way.batches.seconds, start, cpu = 0.0, time.monotonic(), cpu_seconds()
    for batch in islice(way.batches, num_steps):
        way.step(batch)
    losses = way.read()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.monotonic() - start
    assert len(losses) == num_steps, f"{len(losses)} steps, not {num_steps}"
    assert all(map(math.isfinite, losses)), f"diverged: {losses}"
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if on_gpu else resident("VmHWM")
    return Block(seconds, way.batches.seconds, cpu_seconds() - cpu, peak)


def cpu_seconds() -> float:
    """CPU seconds of this process and its workers."""
    workers = [Path(f"/proc/{worker.pid}/stat").read_text() for worker in multiprocessing.active_children()]
    ticks = sum(sum(map(int, line.rpartition(")")[2].split()[11:13])) for line in workers)  # user and system
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


# Turns


class Child:
    """A process that measures; while it is not measured, it is stopped together with its workers."""

    def __init__(self, job: Job):
        command = [sys.executable, __file__, "--job", json.dumps(job)]
        # In its own process group, which can be stopped and ended as a whole.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        self.what = f"{job.way}, {job.student}, {job.crop}, {job.stage}"

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def turn(self, num_steps: int) -> Block:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        os.killpg(self.process.pid, signal.SIGCONT)
        print(num_steps, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise click.ClickException(f"the process that measures {self.what} has failed; its error is above")
        os.killpg(self.process.pid, signal.SIGSTOP)
        return Block(*json.loads(answer))


def measure(jobs: Sequence[Job], steps: int, warm_up: int, rounds: int) -> list[list[Block]]:
    """The blocks of each job, one per round."""
    with ExitStack() as stack:
        children = []
        for job in jobs:
            children.append(stack.enter_context(Child(job)))
            children[-1].turn(warm_up)
        blocks = [[child.turn(steps) for child in children] for _ in range(rounds)]
    return [list(of_one) for of_one in zip(*blocks, strict=True)]


class Comparison(NamedTuple):
    """Time of the published step over the time of ours: median of the rounds, and the range."""

    ratio: float
    least: float
    largest: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x ({self.least:.2f} to {self.largest:.2f})"


def compared(published: Sequence[Block], ours: Sequence[Block]) -> Comparison:
    ratios = [theirs.seconds / own.seconds for theirs, own in zip(published, ours, strict=True)]
    return Comparison(statistics.median(ratios), min(ratios), max(ratios))


def cells_of(blocks: Sequence[Block], steps: int, batch: int) -> list[str]:
    """Cells of a row: ms/step, images/s, CPU ms/step, peak in MB, data wait."""
    seconds = statistics.median(block.seconds for block in blocks) / steps
    waiting = sum(block.waiting for block in blocks) / sum(block.seconds for block in blocks)
    cpu = sum(block.cpu for block in blocks) / (steps * len(blocks))
    cells = [f"{1e3 * seconds:.0f}", f"{batch / seconds:.2f}", f"{1e3 * cpu:.0f}"]
    return [*cells, f"{blocks[-1].megabytes:.0f}", f"{waiting:.0%}"]


def print_table(jobs: Sequence[Job], ways: Sequence[str], steps: int, warm_up: int, rounds: int) -> None:
    """Measure and print. jobs: one per configuration; their `way` is ignored"""
    print_header(
        f"A step with its data: {rounds} rounds of {steps} steps each",
        "student | crop | stage | published in | published ms/step | ours ms/step | faster | images/s | CPU ms/step "
        "| peak MB | data wait",
    )
    smallest: tuple[float, str] = (math.inf, "")
    for job in jobs:
        *theirs, ours = measure([job._replace(way=way) for way in ways], steps, warm_up, rounds)
        own = cells_of(ours, steps, job.batch)
        for way, published in zip(ways[:-1], theirs, strict=True):
            faster, cells = compared(published, ours), cells_of(published, steps, job.batch)
            row = [job.student, str(job.crop), STAGES[job.stage], way, cells[0], own[0], str(faster)]
            row += [f"{before} -> {after}" for before, after in zip(cells[1:], own[1:], strict=True)]
            click.echo(f"| {' | '.join(row)} |")
            smallest = min(smallest, (faster.ratio, f"{job.student}, {job.crop}, {STAGES[job.stage]}, {way}"))
    click.echo(f"\nsmallest ratio: {smallest[0]:.2f}x ({smallest[1]})")


@click.command(help=__doc__)
@click.option("--student", "students", multiple=True, type=click.Choice([*ARCHITECTURES, PLAIN]))
@click.option("--crop", "crops", multiple=True, type=click.IntRange(min=32))
@click.option("--stage", "stages", multiple=True, type=click.Choice(list(STAGES)), default=list(STAGES))
@click.option("--batch", type=click.IntRange(min=2), default=IMAGES_A_STEP, show_default=True, help="Images per step.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps per block. Default: 5 on a CPU, 40 on a GPU.")
@click.option("--warm-up", type=click.IntRange(min=1), help="Steps before. Default: 3 on a CPU, 20 on a GPU.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Blocks per implementation.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Loader processes.")
@click.option("--threads", type=int, help="Torch threads. Default: torch's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Folder for temporary files. Default: system's.")
@click.option("--job", hidden=True)
def main(
    students: Sequence[str],
    crops: Sequence[int],
    stages: Sequence[str],
    batch: int,
    steps: int | None,
    warm_up: int | None,
    rounds: int,
    workers: int,
    threads: int | None,
    device: str,
    scratch: Path | None,
    job: str | None,
) -> None:
    if job is not None:
        serve(Job(*json.loads(job)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # also ends the child processes
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    amounts = AMOUNTS[torch.device(device).type]
    where = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"
    threads_text = f"{threads or torch.get_num_threads()} threads, {workers} loader processes"
    click.echo(f"torch {torch.__version__}, {where}, {threads_text}")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_data(Path(folder))
        jobs = [
            Job(folder, "", student, crop, stage, device, workers, threads, batch)
            for student in students or amounts.students
            for crop in crops or amounts.crops
            for stage in stages
            if not (student == PLAIN and stage.startswith("plus"))  # plus needs the feature maps of transformers
        ]
        print_table(jobs, amounts.ways, steps or amounts.steps, warm_up or amounts.warm_up, rounds)


if __name__ == "__main__":
    main()

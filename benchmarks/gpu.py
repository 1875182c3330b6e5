"""Measures everything on one GPU, in one command, and prints Markdown: `benchmarks/gpu.sh`.

Random weights of full size, no network access. SEEM: images of 512 x 512 and 21 prompts, from uint8 in memory to maps
in memory, as the stage annotate calls it; reading images and writing maps are not measured. Class maps: what
`compute.device` computes, beside the compiled loops. Training: the trainer's
steps with data loading, on photographs of 500 x 375 (train_step.py). Every row is measured in a separate process, so
its peak memory is its own: allocated by torch on a GPU, resident on a CPU. Rows that would not finish in time are left
out and listed. `--device cpu --tiny` runs the same code with tiny networks in about a minute; what is compiled there is
only traced, because generating machine code takes minutes on a CPU.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from annotate import DTYPES, SIDE, build, peak_resident_bytes, random_texts
from calibrate import print_header
from train_step import IMAGES_A_STEP, STAGES, Child, Job, write_data

from calib import stack_planes
from pipeline.annotators.seem import NANO_FOLDER
from pipeline.calibration.device_strips import reduced_rows, row_strips
from pipeline.calibration.strips import strips_of
from pipeline.seem import Seem
from pipeline.store import ProbabilityReader

ROOT = Path(__file__).parents[1]
NUM_PROMPTS = 21
ROUNDS = 3
TESTS = ("tests/train", "tests/pipeline/calibration")
MIN_SECONDS_LEFT = 30.0  # otherwise a row is not started


class Amounts(NamedTuple):
    """What is measured, and for how long."""

    seem: str
    precision: str
    backend: str
    """Backend of torch.compile."""
    batches: list[int]
    """Numbers of images in one call of the annotator."""
    steps: list[tuple[str, int, str]]
    """Student, crop, stage."""
    classes: list[int]
    """Numbers of classes of the maps that are reduced."""
    num_images: tuple[int, int]
    """Number of labeled and of unlabeled photographs."""
    warm_up: int
    """Number of steps before measuring."""
    seconds: float
    """Duration of a round."""


FULL = Amounts(
    seem="Focal-L",
    precision="bfloat16",
    backend="inductor",
    batches=[1, 4, 16],
    steps=[
        ("b5", 513, "paper stage1"),
        ("b5", 513, "paper stage2"),
        ("dinov2-b", 518, "paper stage1"),
        ("dinov2-b", 518, "paper stage2"),
        ("dinov2-b", 518, "plus stage2"),
    ],
    classes=[21, 150],
    num_images=(16, 32),
    warm_up=10,
    seconds=5.0,
)
TINY = Amounts(
    seem="seem-nano",
    precision="float32",
    backend="eager",
    batches=[1],
    steps=[("tiny", 65, "paper stage1"), ("tiny", 65, "paper stage2"), ("dinov2-s", 56, "plus stage2")],
    classes=[5],
    num_images=(3, 3),
    warm_up=1,
    seconds=0.5,
)


class Clock:
    """The time left until a limit in minutes."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        return self.end - time.monotonic()

    def is_over(self) -> bool:
        return self.left() < MIN_SECONDS_LEFT


# The annotator


class SeemJob(NamedTuple):
    """A measurement of the annotator in one process."""

    variant: str
    precision: str
    device: str
    batches: list[int]
    seconds: float
    backend: str | None
    """Backend of torch.compile; None: not compiled."""


class Speed(NamedTuple):
    """Speed of calls with `batch` images; duration of the first call in seconds, and peak memory until then in MB."""

    batch: int
    images_a_second: float
    first_call: float
    megabytes: float


def seem_of(job: SeemJob) -> Seem:
    if job.variant == "seem-nano":
        return Seem.from_pretrained(NANO_FOLDER, dtype=DTYPES[job.precision]).to(job.device)
    return build(job.variant, job.device, job.precision)


def measure_seem(job: SeemJob) -> list[Speed]:
    seem = seem_of(job)
    if job.backend is not None:
        torch.compile = partial(torch.compile, backend=job.backend)
        seem.compile()
    texts = random_texts(NUM_PROMPTS, seem.config.text_config.projection_dim)
    return [_speed(seem, texts, batch, job) for batch in job.batches]


def _speed(seem: Seem, texts: Any, batch: int, job: SeemJob) -> Speed:
    images = np.random.default_rng(batch).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=np.uint8)

    def seconds() -> float:  # the maps are copied to the host, which waits for them
        start = time.perf_counter()
        seem.semantic_maps(images, texts, normalise="cap", size="native")
        return time.perf_counter() - start

    first = seconds()
    seconds()
    taken: list[float] = []
    while sum(taken) < job.seconds or len(taken) < ROUNDS:
        taken.append(seconds())
    on_gpu = torch.device(job.device).type == "cuda"
    peak = torch.cuda.max_memory_allocated(job.device) if on_gpu else peak_resident_bytes()
    return Speed(batch, batch / statistics.median(taken), first, peak / 1e6)


def print_seem(amounts: Amounts, device: str, clock: Clock) -> list[str]:
    """Print the table; returns the rows that failed or were left out."""
    title = f"SEEM {amounts.seem}, {amounts.precision}, {SIDE} x {SIDE}, {NUM_PROMPTS} prompts"
    print_header(title, "compiled | images per call | images/s | ms/image | first call, s | peak MB")
    problems = []
    for backend in (None, amounts.backend):
        job = SeemJob(amounts.seem, amounts.precision, device, amounts.batches, amounts.seconds, backend)
        what = f"SEEM, compiled: {backend or 'no'}"
        if clock.is_over():
            problems.append(f"{what}: left out, not enough time")
            continue
        command = [sys.executable, __file__, "--seem-job", json.dumps(job)]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=clock.left())
        except subprocess.TimeoutExpired:
            problems.append(f"{what}: not finished in time")
            continue
        for line in done.stdout.splitlines():
            speed = Speed(*json.loads(line))
            cells = [backend or "no", str(speed.batch), f"{speed.images_a_second:.2f}"]
            cells += [f"{1e3 / speed.images_a_second:.1f}", f"{speed.first_call:.1f}", f"{speed.megabytes:.0f}"]
            click.echo(f"| {' | '.join(cells)} |")
        if done.returncode:
            problems.append(f"{what}: failed, its error is above")
    return problems


# Class maps


def print_maps(amounts: Amounts, device: str, clock: Clock) -> list[str]:
    """Print how fast class maps are reduced by compiled loops on one thread, and on the device, in turn.

    Returns the rows that failed or were left out.
    """
    print_header(
        f"Up-sampling, softmax, scores and planes of Eq. 4: {SIDE} x {SIDE} from logits of {SIDE // 4} x {SIDE // 4}",
        "classes | compiled, ms/image | device, ms/image | faster | pixels that differ",
    )
    problems = []
    for num_classes in amounts.classes:
        if clock.is_over():
            problems.append(f"maps of {num_classes} classes: left out, not enough time")
            continue
        rng = np.random.default_rng(num_classes)
        logits = rng.normal(scale=4, size=(num_classes, SIDE // 4, SIDE // 4)).astype(np.float32)
        reader = ProbabilityReader(logits, True, (SIDE, SIDE))
        mask = rng.integers(num_classes, size=(SIDE, SIDE)).astype(np.uint8)
        ways = (partial(reduced_by_loops, reader, mask), partial(reduced_on, device, reader, mask))
        taken: list[list[float]] = [[], []]
        found: list[list[np.ndarray]] = [[], []]
        while min(map(len, taken)) <= ROUNDS or sum(taken[0]) < amounts.seconds:
            for i, way in enumerate(ways):
                start = time.perf_counter()
                found[i] = way()
                taken[i].append(time.perf_counter() - start)
        loops, on_device = (statistics.median(seconds[1:]) for seconds in taken)  # the first one compiles, or allocates
        differ = np.any([one != other for one, other in zip(*found, strict=True)], axis=0).sum()
        cells = [f"{1e3 * loops:.1f}", f"{1e3 * on_device:.1f}", f"{loops / on_device:.1f}x", str(differ)]
        click.echo(f"| {num_classes} | {' | '.join(cells)} |")
    return problems


def reduced_by_loops(reader: ProbabilityReader, mask: np.ndarray) -> list[np.ndarray]:
    """Planes and scores of an image with background 0, by compiled loops."""
    strips = list(strips_of(reader, 0, "cpu", mask=mask))
    return [*stack_planes([strip.planes for strip in strips]), np.concatenate([strip.score for strip in strips])]


def reduced_on(device: str, reader: ProbabilityReader, mask: np.ndarray) -> list[np.ndarray]:
    """The same by torch on a device, the CPU, too."""
    parts = [reduced_rows(device, reader, rows, 0, mask[rows].astype(np.intp), False) for rows in row_strips(reader)]
    return [*stack_planes([part.planes for part in parts]), np.concatenate([1 - part.p_true for part in parts])]


# Training steps


def print_steps(amounts: Amounts, device: str, workers: int, folder: Path, clock: Clock) -> list[str]:
    """Print the table; returns the rows that failed or were left out."""
    on_gpu = torch.device(device).type == "cuda"
    precision = "precision auto (bfloat16 where the GPU has it)" if on_gpu else "float32"
    print_header(
        f"A training step with its data: {precision}, {IMAGES_A_STEP} images, {workers} loader processes",
        "student | crop | stage | ms/step | range | images/s | data wait | peak MB",
    )
    write_data(folder, *amounts.num_images)
    problems = []
    for student, crop, stage in amounts.steps:
        what = f"{student}, {crop}, {STAGES[stage]}"
        if clock.is_over():
            problems.append(f"{what}: left out, not enough time")
            continue
        job = Job(str(folder), "ours", student, crop, stage, device, workers, None)
        try:
            click.echo(f"| {' | '.join([student, str(crop), STAGES[stage], *step_cells(job, amounts)])} |")
        except click.ClickException as error:
            problems.append(f"{what}: {error.message}")
    return problems


def step_cells(job: Job, amounts: Amounts) -> list[str]:
    """Cells of a row: ms/step, their range over the rounds, images/s, data wait, peak in MB."""
    with Child(job) as child:
        child.turn(amounts.warm_up)
        estimate = child.turn(2).seconds / 2
        steps = max(2, round(amounts.seconds / estimate))
        blocks = [child.turn(steps) for _ in range(ROUNDS)]
    times = [block.seconds / steps for block in blocks]
    median, waiting = statistics.median(times), sum(b.waiting for b in blocks) / sum(b.seconds for b in blocks)
    cells = [f"{1e3 * median:.0f}", f"{1e3 * min(times):.0f} to {1e3 * max(times):.0f}"]
    return [*cells, f"{IMAGES_A_STEP / median:.2f}", f"{waiting:.1%}", f"{blocks[-1].megabytes:.0f}"]


# The tests that need a GPU


def print_tests(clock: Clock) -> list[str]:
    """Print the last line of pytest; returns a description if it failed or was left out."""
    click.echo(f"\n`pytest -m gpu {' '.join(TESTS)}`\n")
    if clock.is_over():
        return ["tests: left out, not enough time"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *TESTS]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=clock.left())
    except subprocess.TimeoutExpired:
        return ["tests: not finished in time"]
    click.echo(done.stdout.strip().splitlines()[-1].strip("= "))
    if done.returncode:
        click.echo(done.stdout, err=True)
        return ["tests: failed, pytest's output is above"]
    return []


@click.command(help=__doc__)
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N or cpu.")
@click.option("--tiny", is_flag=True, help="Tiny networks, to test this command.")
@click.option("--minutes", default=8.5, show_default=True, help="Limit; rows that would end later are left out.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Loader processes.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Folder for temporary files. Default: system's.")
@click.option("--seem-job", hidden=True)
def main(device: str, tiny: bool, minutes: float, workers: int, scratch: Path | None, seem_job: str | None) -> None:
    if seem_job is not None:
        for speed in measure_seem(SeemJob(*json.loads(seem_job))):
            click.echo(json.dumps(speed))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # also ends the child processes
    clock, on_gpu = Clock(minutes), torch.device(device).type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise click.ClickException(
            "torch finds no CUDA device; to test the command without one, add --device cpu --tiny"
        )
    name = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if on_gpu else ""
    click.echo(f"## {name}\n\ntorch {torch.__version__}{cuda}{'; tiny networks' if tiny else ''}")
    amounts, start = TINY if tiny else FULL, time.monotonic()
    problems = print_maps(amounts, device, clock)
    problems += print_seem(amounts, device, clock)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        problems += print_steps(amounts, device, workers, Path(folder), clock)
    problems += print_tests(clock)
    click.echo(f"\n{time.monotonic() - start:.0f} s in total")
    for problem in problems:
        click.echo(f"- {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

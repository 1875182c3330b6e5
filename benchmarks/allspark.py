"""AllSpark's block, compared with its equations computed literally: `python benchmarks/allspark.py`.

The literal computation forms every attention map. Each row is measured in a separate process: forward and backward pass
of the block in training, on random features and a full memory, with 2 labeled and 2 unlabeled images. Peak memory is
the memory beyond weights and inputs. A second table measures storing the unlabeled channels in the memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import torch
from calibrate import in_own_process, print_header, resident
from torch import Tensor

from train.students.allspark.decoder import AllSparkBlock, Memory
from train.students.allspark.memory import SemanticMemory, channel_groups

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from literal_allspark import LiteralMemory, literal_block

NUM_CHANNELS, NUM_LABELED, NUM_UNLABELED = 512, 2, 2
MAX_REPEATS, SECONDS_OF_REPEATS = 5, 6


class Case(NamedTuple):
    """Number of classes in the memory (0: no memory), and side of the last feature map in pixels."""

    name: str
    classes: int
    side: int


CASES = [
    Case("VOC 513, warm-up", 0, 17),
    Case("VOC 513", 21, 17),
    Case("Cityscapes 801", 19, 26),
    Case("ADE20K 513", 150, 17),
]
QUICK = [Case("small", 3, 8)]


class Kind(NamedTuple):
    dropout: float
    precision: str


KINDS = [Kind(0.0, "float32"), Kind(0.0, "bfloat16"), Kind(0.1, "float32"), Kind(0.1, "bfloat16")]
WAYS = ("literal", "ours")


class Usage(NamedTuple):
    """Of the best run: wall seconds, and CPU seconds of both passes; of all runs: peak in MB."""

    forward: float
    both: float
    cpu: float
    megabytes: float


def inputs_of(case: Case, device: str) -> tuple[Tensor, Memory | None]:
    torch.manual_seed(0)
    features = torch.randn(NUM_LABELED + NUM_UNLABELED, NUM_CHANNELS, case.side, case.side)
    if not case.classes:
        return features.to(device), None
    vectors = torch.randn(case.classes, NUM_CHANNELS, case.side**2)
    return features.to(device), (vectors.to(device), torch.ones(vectors.shape[:2], dtype=torch.bool, device=device))


def forward_of(way: str, dropout: float, device: str) -> tuple[AllSparkBlock, Callable[..., Tensor]]:
    torch.manual_seed(1)
    block = AllSparkBlock(NUM_CHANNELS, dropout=dropout).to(device)
    return block, block if way == "ours" else partial(literal_block, block, dropout=dropout)


def measure(way: str, case: Case, kind: Kind, device: str, result: str) -> Usage:
    """Measure one implementation, and write its result and the gradient of the features to a file."""
    block, forward = forward_of(way, kind.dropout, device)
    features, memory = inputs_of(case, device)
    features.requires_grad_()
    half = torch.autocast(device, torch.bfloat16) if kind.precision == "bfloat16" else nullcontext()
    small = inputs_of(QUICK[0], device)
    forward(small[0], NUM_LABELED, small[1]).sum().backward()  # loads libraries
    before, runs = _start(device), []
    while not runs or (len(runs) < MAX_REPEATS and sum(run[1] for run in runs) < SECONDS_OF_REPEATS):
        block.zero_grad()
        features.grad = None
        start, cpu = time.perf_counter(), time.process_time()
        with half:
            mixed = forward(features, NUM_LABELED, memory)
        seconds = _seconds(device, start)
        mixed.float().square().sum().backward()
        runs.append((seconds, _seconds(device, start), time.process_time() - cpu))
    torch.save([mixed.detach().float().cpu(), features.grad.cpu()], result)
    return Usage(*min(runs, key=lambda run: run[1]), _peak(device) - before)


def _start(device: str) -> float:
    """Reset the peak, and return the present memory in MB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else resident("VmHWM")


def _seconds(device: str, start: float) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def largest_difference(result: str, literal: str) -> str:
    """Largest difference of results and of gradients, as fractions of the largest literal value."""
    pairs = zip(*(torch.load(path, weights_only=True) for path in (result, literal)), strict=True)
    return ", ".join(f"{((one - other).abs().max() / other.abs().max()).item():.0e}" for one, other in pairs)


def print_passes(cases: Sequence[Case], device: str, scratch: Path) -> None:
    print_header(
        f"Forward and backward pass, {NUM_LABELED} + {NUM_UNLABELED} images, {device}",
        "case | keys per image | dropout | precision | way | forward s | forward + backward s | CPU s | peak MB "
        "| faster | less memory | result and gradient differ from literal float32 without dropout",
    )
    for case in cases:
        keys = 2 * NUM_CHANNELS * (case.classes or NUM_UNLABELED)
        for kind in KINDS:
            literal = None
            for way in WAYS:
                result = scratch / f"{way}_{kind.precision}.pt"
                usage = Usage(*in_own_process(__file__, torch.get_num_threads(), way, case, kind, device, str(result)))
                literal = literal or usage
                cells = [case.name, f"{keys:,}", str(kind.dropout), kind.precision, way, f"{usage.forward:.3f}"]
                cells += [f"{usage.both:.3f}", f"{usage.cpu:.3f}", f"{usage.megabytes:.0f}"]
                cells += [f"{literal.both / usage.both:.1f}x"]
                cells += [f"{literal.megabytes / usage.megabytes:.1f}x"]
                exact = scratch / "literal_float32.pt"
                cells += ["other random numbers" if kind.dropout else largest_difference(str(result), str(exact))]
                click.echo(f"| {' | '.join(cells)} |")


def print_queues(cases: Sequence[Case], device: str) -> None:
    print_header(f"Grouping and storing the channels of {NUM_UNLABELED} images, {device}", "case | way | ms | faster")
    for case in filter(lambda case: case.classes, cases):
        torch.manual_seed(0)
        features = torch.randn(NUM_UNLABELED, NUM_CHANNELS, case.side, case.side, device=device)
        logits = torch.randn(NUM_UNLABELED, case.classes, 129, 129, device=device)
        memory = SemanticMemory(case.classes, NUM_CHANNELS, case.side**2).to(device)
        literal = LiteralMemory(case.classes, NUM_CHANNELS)
        slowest = None
        for way, enqueue in (("one by one", literal.enqueue), ("ours", memory.enqueue)):
            seconds = []
            for _ in range(1 + MAX_REPEATS):  # the first warms up
                start = time.perf_counter()
                enqueue(features.flatten(2), channel_groups(logits, features))
                seconds.append(_seconds(device, start))
            slowest = slowest or min(seconds[1:])
            taken = min(seconds[1:])
            click.echo(f"| {case.name} | {way} | {1e3 * taken:.1f} | {slowest / taken:.1f}x |")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small sizes.")
@click.option("--case", "names", multiple=True, type=click.Choice([case.name for case in CASES]))
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--threads", type=int, help="Torch threads. Default: torch's.")
@click.option("--job", hidden=True)
def main(quick: bool, names: Sequence[str], device: str, threads: int | None, job: str | None) -> None:
    if job is not None:
        threads, way, case, kind, device, result = json.loads(job)
        torch.set_num_threads(threads)
        click.echo(json.dumps(measure(way, Case(*case), Kind(*kind), device, result)))
        return
    if threads is not None:
        torch.set_num_threads(threads)
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    cases = QUICK if quick else [case for case in CASES if not names or case.name in names]
    with tempfile.TemporaryDirectory() as folder:
        print_passes(cases, device, Path(folder))
    print_queues(cases, device)


if __name__ == "__main__":
    main()

"""Speed of the SEEM annotator, compared with the published computation of its maps: `python benchmarks/annotate.py`.

Random weights. Both are measured in turns in one process, so that other processes affect their ratio little. Prints two
Markdown tables: images (time, ratio, peak memory, FLOPs) and class texts. `--variant "SAM 3"` and `--variant CLIPSeg`
compare these networks with a plain loop over prompts (`benchmarks/prompted.py`).
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import prompted
import torch
from published_way import CONTEXT_LENGTH, PublishedWay
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.seem import Seem, SeemConfig, SeemModel
from pipeline.seem.maps import Size, network_input
from pipeline.seem.prompts import TEMPLATES, fill_templates
from pipeline.seem.seem import ClassTexts, load_tokenizer

VARIANTS = {
    "Focal-T": SeemConfig(backbone="focal_dw", width=96, depths=[2, 2, 6, 2], focal_levels=[3, 3, 3, 3]),
    "Focal-L": SeemConfig(),
}
SIDE = 512
NAMES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
]  # fmt: skip
IMAGE = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class WordTokenizer:
    """One token per word and punctuation mark, about as many as CLIP's tokenizer gives for names in its templates."""

    eos_token_id = 49407

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        counts = [len(text.replace(".", " .").split()) for text in texts]
        return {"input_ids": [[49406, *range(1000, 1000 + count), self.eos_token_id] for count in counts]}


def build(variant: str, device: str, precision: str = "float32") -> Seem:
    torch.manual_seed(0)
    model = SeemModel(VARIANTS[variant]).requires_grad_(False)
    return Seem(model, WordTokenizer(), dtype=DTYPES[precision]).to(device)


def random_texts(num_prompts: int, width: int = 512) -> ClassTexts:
    vectors = np.random.default_rng(0).standard_normal((num_prompts + 1, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ClassTexts(vectors, [[i] for i in range(num_prompts)], "none")


def ours(size: Size, dtype: torch.dtype | None = None) -> Callable[[Seem, ClassTexts], Callable[[], np.ndarray]]:
    """Our computation at a size, in the precision of the network or in another one."""

    def make(seem: Seem, texts: ClassTexts) -> Callable[[], np.ndarray]:
        seem.dtype = dtype or seem.dtype
        return lambda: seem.semantic_maps(IMAGE, texts, size=size)

    return make


def published_way(seem: Seem, texts: ClassTexts) -> Callable[[], Tensor]:
    embeddings = torch.from_numpy(texts.embeddings).to(seem.device)
    published = PublishedWay(seem.model)

    def annotate() -> Tensor:
        pixels, _ = network_input(IMAGE, SIDE, seem.config)
        with torch.inference_mode(), seem._autocast():
            return published.semantic_map(pixels.to(seem.device), embeddings, (SIDE, SIDE)).cpu()

    return annotate


# Each makes a function that annotates one image.
WAYS: dict[str, Callable[[Seem, ClassTexts], Callable[[], Any]]] = {
    "published way, full size": published_way,
    "ours, full size": ours("original"),
    "ours, as cached (stride 4)": ours("native"),
    "ours, as cached, bfloat16": ours("native", torch.bfloat16),
}


def seconds_each(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of every call in seconds; each round calls all of them once."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first round warms up
        for name, call in calls.items():
            _synchronise()
            start = time.perf_counter()
            call()
            _synchronise()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gigaflops(call: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def peak_gigabytes(variant: str, num_prompts: int, way: str, device: str, precision: str) -> float:
    """Peak memory of a new process that annotates two images: resident memory on a CPU, allocated memory on a GPU."""
    options = ["--variant", variant, "--prompts", str(num_prompts), "--device", device, "--precision", precision]
    command = [sys.executable, __file__, *options, "--memory-of", way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_peak(variant: str, num_prompts: int, way: str, device: str, precision: str) -> None:
    call = WAYS[way](build(variant, device, precision), random_texts(num_prompts))
    for _ in range(2):
        call()
    click.echo((torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident_bytes()) / 1e9)


def peak_resident_bytes() -> int:
    """Peak of this process alone; getrusage would include the memory of its parent at the fork."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def image_table(variants: Sequence[str], prompts: Sequence[int], rounds: int, device: str, precision: str) -> None:
    click.echo(
        f"\n| {SIDE} x {SIDE}, {device}, {precision} | prompts | s/image | images/s | faster | peak GB | GFLOP |"
    )
    click.echo("|---|---|---|---|---|---|---|")
    for variant in variants:
        seem = build(variant, device, precision)
        for num_prompts in prompts:
            calls = {way: make(copy.deepcopy(seem), random_texts(num_prompts)) for way, make in WAYS.items()}
            largest = _largest_difference(*list(calls.values())[:2])
            seconds = seconds_each(calls, rounds)
            slowest = next(iter(seconds.values()))
            for way, taken in seconds.items():
                memory = peak_gigabytes(variant, num_prompts, way, device, precision)
                cells = [f"{variant}, {way}", str(num_prompts), f"{taken:.2f}", f"{1 / taken:.2f}"]
                cells += [f"{slowest / taken:.2f}x", f"{memory:.2f}", f"{gigaflops(calls[way]):.0f}"]
                click.echo(f"| {' | '.join(cells)} |")
            click.echo(
                f"<!-- {variant}, {num_prompts} prompts: maps differ by at most {largest:.0e} of the maximum -->"
            )


def _largest_difference(first: Callable[[], Tensor], second: Callable[[], np.ndarray]) -> float:
    expected, maps = first().float().numpy(), second()[0]
    return float(np.abs(maps - expected).max() / np.abs(expected).max())


def text_table(device: str, tokenizer: Path | None) -> None:
    seem = build("Focal-T", device)
    if tokenizer is not None:
        seem.tokenizer = load_tokenizer(tokenizer)
    published = PublishedWay(copy.deepcopy(seem.model))

    def published_texts() -> None:
        for name in NAMES:
            ids = seem._tokenize(fill_templates(name, TEMPLATES))
            padded = [[*row, *[seem.tokenizer.eos_token_id] * (CONTEXT_LENGTH - len(row))] for row in ids]
            with torch.inference_mode():
                published.class_embedding(torch.tensor(padded, device=seem.device))

    def our_texts() -> None:
        seem.embeddings.clear()
        seem.text_embeddings(NAMES)

    seconds = seconds_each({"published way (77 positions)": published_texts, "ours": our_texts}, rounds=1)
    slowest = next(iter(seconds.values()))
    click.echo(f"\n| class texts, {len(NAMES)} names x {len(TEMPLATES)} templates, {device} | seconds | faster |")
    click.echo("|---|---|---|")
    for way, taken in seconds.items():
        click.echo(f"| {way} | {taken:.1f} | {slowest / taken:.1f}x |")


@click.command()
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice([*VARIANTS, *prompted.VARIANTS]),
    default=list(VARIANTS),
    show_default=True,
)
@click.option("--prompts", multiple=True, type=int, default=[21, 150], show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Timed rounds, of which the median is taken.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--precision", type=click.Choice(list(DTYPES)), default="float32", show_default=True)
@click.option("--threads", type=int, help="Torch threads. Default: torch's.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of CLIP's. Default: one token per word.")
@click.option("--no-text", is_flag=True, help="Leave out the class texts, which take minutes on a CPU.")
@click.option("--side", type=int, help="Side of the input of SAM 3 or CLIPSeg in pixels. Default: 1008 or 352.")
@click.option("--loop-prompts", type=int, help="Prompts of the plain loop that are timed; scaled to all. Default: all.")
@click.option("--memory-of", hidden=True)
def main(
    variants: Sequence[str],
    prompts: Sequence[int],
    rounds: int,
    device: str,
    precision: str,
    threads: int | None,
    tokenizer: Path | None,
    no_text: bool,
    side: int | None,
    loop_prompts: int | None,
    memory_of: str | None,
) -> None:
    """Annotate random images with random weights, by our code and by the published computation."""
    if threads is not None:
        torch.set_num_threads(threads)
    if memory_of is not None:
        print_own_peak(variants[0], prompts[0], memory_of, device, precision)
        return
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    seem = [variant for variant in variants if variant in VARIANTS]
    for variant in variants:
        if variant in prompted.VARIANTS:
            for number in prompts:
                words = [*NAMES, *(f"object {i}" for i in range(number))][:number]
                prompted.prompted_table(variant, side, words, loop_prompts, rounds, device, precision)
    if seem:
        image_table(seem, prompts, rounds, device, precision)
    if seem and not no_text:
        text_table(device, tokenizer)


if __name__ == "__main__":
    main()

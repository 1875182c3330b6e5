"""SAM 3 and CLIPSeg for `benchmarks/annotate.py`: our computation against a plain loop, one call per prompt.

Random weights, full-size configurations. Both use the same network object.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import BatchEncoding

from pipeline.annotators.batches import DTYPES
from pipeline.annotators.hub.preprocessing import Preprocessing
from pipeline.annotators.hub.prompted import NUM_TOKENS, ClipSeg, Prompted, Sam3

SCORE_THRESHOLD = 0.1  # with random weights all scores are about 0.25, so every instance counts
CLIPSEG_SIDE = 352
START, END = 49406, 49407
VARIANTS = ("SAM 3", "CLIPSeg")
TOLERANCE = 1e-4


class Words:
    """Tokenizer with one token per word."""

    def __call__(self, texts: Sequence[str], **options: Any) -> BatchEncoding:
        ids = [[START, *(_token(word) for word in text.split()), END] for text in texts]
        length = options.get("max_length") or max(map(len, ids))
        padded = [[*row, *[END] * (length - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
        if "return_tensors" not in options:
            return BatchEncoding({"input_ids": ids})
        return BatchEncoding({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)})


def _token(word: str) -> int:
    return 1000 + int(hashlib.sha256(word.encode()).hexdigest(), 16) % 40000


class Case(NamedTuple):
    """A network in our computation, its preprocessing, and a plain loop over prompts: float32 [h, w] for each."""

    ours: ClipSeg | Sam3
    preprocessing: Preprocessing
    loop: Callable[[np.ndarray, Sequence[str]], list[Tensor]]


def build(variant: str, side: int | None, device: str) -> Case:
    torch.manual_seed(0)
    return _sam3(side or 1008, device) if variant == "SAM 3" else _clipseg(side or CLIPSEG_SIDE, device)


def _sam3(side: int, device: str) -> Case:
    config = transformers.Sam3Config()
    config.image_size = side
    model = transformers.Sam3Model(config).eval().requires_grad_(False).to(device)
    content = {"image_processor_type": "Sam3ImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    preprocessing = Preprocessing(content, (side, side))

    def loop(image: np.ndarray, prompts: Sequence[str]) -> list[Tensor]:
        pixels = torch.from_numpy(preprocessing(image)).to(device)
        maps = []
        for prompt in prompts:
            words = Words()([prompt], max_length=NUM_TOKENS, return_tensors="pt").to(device)
            outputs = model(pixel_values=pixels, **words)
            presence = outputs.presence_logits.float().sigmoid()[0]
            scores = outputs.pred_logits.float().sigmoid()[0] * presence
            masks = outputs.pred_masks.float().sigmoid()[0][scores > SCORE_THRESHOLD]
            instances = masks * scores[scores > SCORE_THRESHOLD][:, None, None]
            maps.append(presence * torch.cat([outputs.semantic_seg.float().sigmoid()[0], instances]).amax(dim=0))
        return maps

    return Case(Sam3(model, SCORE_THRESHOLD), preprocessing, loop)


def _clipseg(side: int, device: str) -> Case:
    config = transformers.CLIPSegConfig(vision_config={"patch_size": 16}, text_config={"eos_token_id": END})
    model = transformers.CLIPSegForImageSegmentation(config).eval().requires_grad_(False).to(device)
    processor = transformers.ViTImageProcessorPil(size={"height": side, "width": side})

    def loop(image: np.ndarray, prompts: Sequence[str]) -> list[Tensor]:
        maps = []
        for prompt in prompts:
            pixels = processor(list(image), return_tensors="pt")["pixel_values"].to(device)
            words = Words()([prompt], return_tensors="pt").to(device)
            maps.append(model(pixel_values=pixels, **words).logits.float().sigmoid().reshape(side, side))
        return maps

    return Case(ClipSeg(model), Preprocessing(processor.to_dict(), (side, side)), loop)


def prompted_table(
    variant: str, side: int | None, prompts: Sequence[str], timed: int | None, rounds: int, device: str, precision: str
) -> None:
    """Print one table; AssertionError if a map of a timed prompt differs by more than TOLERANCE in float32.

    timed: number of the prompts that the plain loop computes; its time is scaled to all. None: all
    """
    case = build(variant, side, device)
    dtype = DTYPES[precision]
    image = np.random.default_rng(1).integers(0, 256, (1, 512, 512, 3), dtype=np.uint8)
    timed = min(timed or len(prompts), len(prompts))
    with torch.inference_mode(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        texts, text_times = _timed(lambda: case.ours.embed(Words(), prompts))
        network = Prompted(case.ours, texts, [[i] for i in range(len(prompts))])

        def ours() -> Tensor:
            return network(torch.from_numpy(case.preprocessing(image)).to(device))

        times: dict[str, list[Times]] = {"loop": [], "ours": []}
        for _ in range(rounds):
            expected, taken = _timed(lambda: case.loop(image, prompts[:timed]))
            times["loop"].append(taken.scaled(len(prompts) / timed))
            maps, taken = _timed(ours)
            times["ours"].append(taken)
    difference = (maps[0, :timed].cpu() - torch.stack(expected).cpu()).abs().max().item()
    assert precision != "float32" or difference < TOLERANCE, difference
    loop, own = (Times(*map(statistics.median, zip(*times[way], strict=True))) for way in ("loop", "ours"))
    height, width = case.preprocessing.input_size(*image.shape[1:3])
    case_of_table = f"{variant}, {height} x {width}, {device}, {precision}"
    click.echo(f"\n| {case_of_table} | prompts | s/image | faster | CPU s/image | faster |")
    click.echo("|---|---|---|---|---|---|")
    name = "plain loop" if timed == len(prompts) else f"plain loop, {timed} of its calls timed"
    for way, taken in ((name, loop), ("ours", own)):
        cells = [way, len(prompts), f"{taken.wall:.1f}", f"{loop.wall / taken.wall:.2f}x"]
        cells += [f"{taken.cpu:.1f}", f"{loop.cpu / taken.cpu:.2f}x"]
        click.echo(f"| {' | '.join(map(str, cells))} |")
    click.echo(f"<!-- maps differ by at most {difference:.0e}; our texts, once: {text_times.cpu:.1f} CPU s -->")


class Times(NamedTuple):
    """Wall and CPU time in seconds. Other processes lengthen the wall time; with one thread, the CPU time little."""

    wall: float
    cpu: float

    def scaled(self, factor: float) -> Times:
        return Times(factor * self.wall, factor * self.cpu)


def _timed(call: Callable[[], Any]) -> tuple[Any, Times]:
    """What a call returns, and its times."""
    _synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    _synchronise()
    return result, Times(time.perf_counter() - wall, time.process_time() - cpu)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

"""Trains the demo's annotator, on the source domain only: `python -m pipeline.demo.train_annotator`."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from pipeline.demo.network import SegmentationNetwork
from pipeline.demo.scenes import CLASS_NAMES, IGNORE_INDEX, numbered_scene

log = logging.getLogger(__name__)

SIZE = (128, 128)
NUM_TRAIN, NUM_HELD_OUT = 1500, 100
BATCH_SIZE = 16
PEAK_LR = 4.0e-3
# Keeps the probabilities of missed animals away from zero: conformal thresholds have something to work with.
LABEL_SMOOTHING = 0.1


class Scenes(NamedTuple):
    """Pictures and masks in memory."""

    images: Tensor  # uint8 [N, 3, H, W]
    masks: Tensor  # uint8 [N, H, W], 255 = ignore


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).with_name("annotator.safetensors"))
@click.option("--steps", type=click.IntRange(min=1), default=800, show_default=True, help="Optimiser steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides scenes, weights and batches.")
def main(out: Path, steps: int, seed: int) -> None:
    """Train the demo's annotator on source scenes and write its weights."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    started = time.monotonic()
    torch.manual_seed(seed)
    network = SegmentationNetwork(len(CLASS_NAMES))
    train(network, load_scenes("train", NUM_TRAIN, seed), steps, np.random.default_rng(seed))
    held_out = mean_iou(network, load_scenes("val", NUM_HELD_OUT, seed))
    seconds = time.monotonic() - started
    facts = {"seed": seed, "steps": steps, "seconds": round(seconds), "source_miou": round(held_out, 4)}
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, out, metadata={key: str(value) for key, value in facts.items()})
    log.info("wrote %s: %s", out, facts)


def load_scenes(split: str, number: int, seed: int) -> Scenes:
    """Draw the first `number` source scenes of a split."""
    log.info("drawing %d source scenes (%s)", number, split)
    scenes = [numbered_scene(seed, "source", split, index, SIZE) for index in range(number)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    return Scenes(images, torch.from_numpy(np.stack([scene.mask for scene in scenes])))


def train(network: SegmentationNetwork, scenes: Scenes, steps: int, rng: np.random.Generator) -> None:
    """Fit the network in place: AdamW, one-cycle learning rate, smoothed cross-entropy at full resolution."""
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.15)
    started = time.monotonic()
    for step, (images, masks) in enumerate(batches(scenes, steps, rng), start=1):
        loss = smoothed_cross_entropy(network(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            rate = step / (time.monotonic() - started)
            left = (steps - step) / rate
            log.info("step %d of %d, loss %.3f, %.1f steps/s, %.0f s left", step, steps, loss.item(), rate, left)


def batches(scenes: Scenes, steps: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches, each mirrored or not: images float [B, 3, H, W] in 0..1, masks int64 [B, H, W]."""
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(0, len(scenes.images), BATCH_SIZE))
        images, masks = scenes.images[chosen] / 255.0, scenes.masks[chosen].long()
        if rng.random() < 0.5:
            images, masks = images.flip(-1), masks.flip(-1)
        yield images.contiguous(memory_format=torch.channels_last), masks


def smoothed_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over labelled pixels; logits float [B, C, h, w] are brought to the size of the masks, int64 [B, H, W]."""
    full = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, masks, ignore_index=IGNORE_INDEX, label_smoothing=LABEL_SMOOTHING)


@torch.inference_mode()
def mean_iou(network: SegmentationNetwork, scenes: Scenes) -> float:
    """Mean intersection over union of all classes, over all labelled pixels of the scenes."""
    network.eval()
    num_classes = len(CLASS_NAMES)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for image, mask in zip(scenes.images, scenes.masks, strict=True):
        logits = network(image[None] / 255.0)
        predicted = F.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False)[0].argmax(0)
        confusion += count_pairs(mask.numpy(), predicted.numpy(), num_classes)
    hits = np.diag(confusion)
    return float(np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)))


def count_pairs(mask: NDArray[np.uint8], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Confusion matrix int64 [true class, predicted class] over the labelled pixels of one scene."""
    labelled = mask != IGNORE_INDEX
    pairs = num_classes * mask[labelled].astype(np.int64) + predicted[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


if __name__ == "__main__":
    main()

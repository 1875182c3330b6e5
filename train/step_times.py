"""Times three training steps on random images, to estimate the time and memory of a stage before it runs."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.datasets import SPLITS, Sample, SampleIndex, Split
from pipeline.settings import DataSettings, Settings
from train import stage1, stage2
from train.data import TrainingImages
from train.engine.failures import explained_errors
from train.engine.stage import Stage, check_batch, own_draws
from train.engine.state import TrainingState, new_state
from train.engine.step import training_step
from train.machine.device import compute_of
from train.plan import labeled_samples
from train.recipe import new_student

TIMED_STEPS = 3
TrainingStage = Literal["stage1", "stage2"]


@dataclasses.dataclass(frozen=True)
class RandomImages(SampleIndex):
    """Samples without files: images of random pixels with masks of random classes."""

    def image(self, sample: Sample) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        return np.random.default_rng(0).integers(0, 256, (*sample.size, 3), np.uint8)

    def mask(self, sample: Sample, data: DataSettings) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] class index."""
        return np.random.default_rng(0).integers(0, data.num_classes, sample.size, np.uint8)


def step_times(settings: Settings, name: TrainingStage, num_images: Mapping[str, int]) -> dict[str, Any]:
    """Take a step to warm up and three that are timed, with the student, crop and batch sizes of a run.

    A stage with fewer steps takes its own, and the first one counts only if there is no other. The student has random
    weights. Nothing is read from the run's folder or written.

    num_images: number of images by split
    returns:    num_steps of the stage, seconds of a step (median), peak memory in bytes: of the process on a CPU,
                allocated by torch on a GPU; on_gpu, device
    raises:     TrainingError if the student cannot be trained with these settings, or memory runs out
    """
    index = random_index(settings, num_images)
    stage = stage_of(settings, name, index)
    check_batch(stage)
    torch.manual_seed(settings.seed)
    student = new_student(settings, compute_of(settings.train), weights="random", stage=name)
    state = new_state(student, settings.train, settings.data.num_classes)
    student.model.train()
    with explained_errors(stage):
        seconds = [seconds_of_step(state, stage) for _ in range(min(1 + TIMED_STEPS, stage.num_steps))]
    device = student.compute.device
    on_gpu = device.type == "cuda"
    return {
        "num_steps": stage.num_steps,
        "seconds": statistics.median(seconds[1:] or seconds),
        "bytes": torch.cuda.max_memory_allocated(device) if on_gpu else peak_bytes(),
        "on_gpu": on_gpu,
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU x {torch.get_num_threads()}",
    }


def random_index(settings: Settings, num_images: Mapping[str, int]) -> RandomImages:
    """As many samples as the run has, each of the size of the crop."""
    side = settings.train.crop

    def sample(split: Split, number: int) -> Sample:
        return Sample(f"{split}_{number}", "", None if split == "unlabeled" else "", split, side, side)

    samples = (sample(split, number) for split in SPLITS for number in range(num_images.get(split, 0)))
    return RandomImages(Path(), tuple(samples))


def stage_of(settings: Settings, name: TrainingStage, index: SampleIndex) -> Stage:
    """A stage of the run; class 0 is the pseudo-label of every pixel."""
    first = stage1.stage_on(settings, index, stage1_images(settings, index), labels_fingerprint=None)
    if name == "stage1":
        return first
    return stage2.stage_of(settings, index, {"fingerprint": first.fingerprint, "num_steps": first.num_steps})


def stage1_images(settings: Settings, index: SampleIndex) -> TrainingImages:
    """The images of Stage I, all unlabeled ones included."""
    own, labeled = settings.stage1, labeled_samples(settings, index)[0]
    unlabeled = [] if own.labels == "none" else index.of("unlabeled")
    has_sets = own.set_loss != "none"
    return TrainingImages(index, labeled + unlabeled, settings.data, settings.train, "random", has_sets=has_sets)


def seconds_of_step(state: TrainingState, stage: Stage) -> float:
    """Take the next step of a stage; the time of making its batch does not count."""
    batch, device = [stage.images[draw] for draw in own_draws(stage, state.step)], state.student.compute.device
    start = time.monotonic()
    training_step(state, stage, batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - start


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

"""The student on its device: images in; logits, classes or a training pass out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.losses import upsampled
from train.machine.device import Compute
from train.machine.processes import world
from train.students import Network
from train.students.allspark.network import load_model


class Student:
    """A network on its device, in its precision."""

    def __init__(self, model: Network, compute: Compute):
        self.model: Network = model.to(device=compute.device, memory_format=model.memory_format)  # type: ignore[call-overload]
        self.compute = compute
        # of pixels in [0, 255], float32 [3, 1, 1]; copied to the device once
        self.mean, self.std = (
            255 * torch.tensor(values, device=compute.device)[:, None, None] for values in (model.mean, model.std)
        )
        self.compiled: nn.Module = self.model
        """What passes over crops of one size call."""
        self.trained: nn.Module = self.model
        """What passes with a gradient call."""

    def compile(self, is_compiled: bool) -> None:
        """Compile the network for passes over crops, if asked to."""
        if is_compiled:
            self.compiled = torch.compile(self.model)  # type: ignore[assignment]

    def prepare_training(self, is_compiled: bool) -> None:
        """Compile the network if asked to, and share the gradients if there are several processes."""
        self.compile(is_compiled)
        self.trained = self.compiled
        if world().size > 1:
            self.trained = _shared(self.compiled)

    def coarse_logits(self, images: Tensor, network: nn.Module | None = None, **arguments: Any) -> Tensor:
        """uint8 [B, 3, H, W] RGB -> float [B, K, h, w], as fine as the network gives them.

        network:   what to call. Default: the model as it is
        arguments: passed on to the network
        """
        images = self._fitting(self._normalised(images.to(self.compute.device, non_blocking=True)))
        with self.compute.autocast():
            logits: Tensor = (self.model if network is None else network)(images, **arguments)
        return logits

    def _normalised(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float32, by the network's mean and standard deviation."""
        return (images - self.mean) / self.std

    def _fitting(self, images: Tensor) -> Tensor:
        """Stretched so that both sides are what the network takes."""
        multiple, smallest = self.model.multiple, self.model.smallest_side
        size = [math.ceil(max(side, smallest) / multiple) * multiple for side in images.shape[-2:]]
        return images if size == list(images.shape[-2:]) else upsampled(images, size)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] RGB -> float32 [B, K, H, W]."""
        return upsampled(self.coarse_logits(images).float(), images.shape[-2:])

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """uint8 [B, 3, H, W] RGB -> maps of the encoder in evaluation mode, float [B, D, h, w] each, finest first."""
        images = self._fitting(self._normalised(images.to(self.compute.device)))
        with evaluating(self.model), self.compute.autocast():
            return self.model.encode(images)

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] RGB -> uint8 [B, H, W], the most probable class, in evaluation mode."""
        with evaluating(self.model):
            return self.logits(images).argmax(dim=1).to(torch.uint8)


Validate = Callable[[Student], float | None]
"""mIoU of a student on the val images; None if their masks hold no class."""


def _shared(network: nn.Module) -> DistributedDataParallel:
    """A network whose gradients are averaged over the processes.

    Batch statistics are those of all processes (train.students.norm), so no buffer needs to be sent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the successor of broadcast_buffers is only in torch 2.13
        return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which a network is in evaluation mode."""
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)


def load_student(folder: Path, compute: Compute) -> Student:
    """A student that training wrote; TrainingError if it is not there."""
    return Student(load_model(folder), compute)

"""The student: a network on its device, from images to logits, classes or features."""

from __future__ import annotations

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
from train.students import Network, load_network


class Student:
    """A network on its device, computed in its precision."""

    def __init__(self, model: Network, compute: Compute):
        self.model: Network = model.to(device=compute.device, memory_format=model.memory_format)  # type: ignore[call-overload]
        self.compute = compute
        # For pixels in [0, 255], float32 [3, 1, 1]; copied to the device once.
        self.mean, self.std = (
            255 * torch.tensor(values, device=compute.device)[:, None, None] for values in (model.mean, model.std)
        )
        self.compiled: nn.Module = self.model
        """The network for passes over crops, which have one size: compiled, if the settings ask for it."""
        self.trained: nn.Module = self.model
        """The network for passes with a gradient: averages gradients over the processes, if there are several."""

    def compile(self, is_compiled: bool) -> None:
        """Compile the network for passes over crops if `is_compiled`."""
        if is_compiled:
            self.compiled = torch.compile(self.model)  # type: ignore[assignment]

    def prepare_training(self, is_compiled: bool) -> None:
        """Compile the network if `is_compiled`, and wrap it for several processes if there are."""
        self.compile(is_compiled)
        self.trained = self.compiled
        if world().size > 1:
            self.trained = _data_parallel(self.compiled)

    def coarse_logits(self, images: Tensor, network: nn.Module | None = None, **arguments: Any) -> Tensor:
        """Logits at the resolution of the network: uint8 [B, 3, H, W] RGB -> float [B, K, h, w].

        network:   `compiled` or `trained`. Default: the model itself
        arguments: passed on to the network
        """
        images = stretched(self._normalised(images.to(self.compute.device, non_blocking=True)), self.model)
        with self.compute.autocast():
            logits: Tensor = (self.model if network is None else network)(images, **arguments)
        return logits

    def _normalised(self, images: Tensor) -> Tensor:
        """Normalise pixels by the network's mean and standard deviation: uint8 [B, 3, H, W] -> float32."""
        return (images - self.mean) / self.std

    def logits(self, images: Tensor) -> Tensor:
        """Logits at the size of the images: uint8 [B, 3, H, W] RGB -> float32 [B, K, H, W]."""
        return upsampled(self.coarse_logits(images).float(), images.shape[-2:])

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Encoder maps in evaluation mode: uint8 [B, 3, H, W] RGB -> float [B, D, h, w] each, finest first."""
        images = stretched(self._normalised(images.to(self.compute.device)), self.model)
        with evaluating(self.model), self.compute.autocast():
            return self.model.encode(images)

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """The most probable class, in evaluation mode: uint8 [B, 3, H, W] RGB -> uint8 [B, H, W], class index."""
        with evaluating(self.model):
            return self.logits(images).argmax(dim=1).to(torch.uint8)


def stretched(images: Tensor, network: Network) -> Tensor:
    """Resize images, float [B, 3, H, W], to the next larger height and width that a network accepts.

    A trace holds for every size: it always resizes, which changes nothing where the size is accepted.
    """
    size = [_accepted_side(side, network) for side in images.shape[-2:]]
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return images if not is_traced and size == list(images.shape[-2:]) else upsampled(images, size)


def _accepted_side(side: int, network: Network) -> int:
    """The smallest multiple of `network.multiple` that is neither below `side` nor below `network.smallest_side`.

    Without a comparison, and without dividing a negative number, which ONNX rounds to zero.
    """
    larger = (side + network.smallest_side + abs(side - network.smallest_side)) // 2
    return (larger + network.multiple - 1) // network.multiple * network.multiple


Validate = Callable[[Student], float | None]
"""Computes the mIoU of a student on the val images; None if their masks hold no class."""


def _data_parallel(network: nn.Module) -> DistributedDataParallel:
    """A network whose gradients are averaged over the processes.

    Its batch statistics are already those of all processes (train.students.norm), so buffers are not broadcast.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the replacement of broadcast_buffers needs torch 2.13
        return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which a network is in evaluation mode; afterwards it is in its previous mode."""
    was_training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(was_training)


def load_student(folder: Path, compute: Compute) -> Student:
    """The student in a folder that training wrote; TrainingError if it is missing or incomplete."""
    return Student(load_network(folder), compute)

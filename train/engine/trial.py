"""A training pass before the first step, which finds students that cannot be trained on batches of this shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from pipeline.errors import TrainingError, first_line
from train.engine.failures import explained_errors
from train.engine.stage import Stage, own_draws
from train.student import Student
from train.students import dropout_rows
from train.views import num_rows

OF_MODULES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError, NotImplementedError)


def try_training_pass(student: Student, stage: Stage) -> None:
    """Pass black images of the shape of a micro-batch through a student, forward and backward, as a step does.

    Weights, buffers and the states of torch's generators are the same afterwards, and there are no gradients.

    raises: TrainingError if the student cannot be trained on batches of this shape, or memory runs out
    """
    draws, crop = own_draws(stage, 0), stage.images.train.crop
    num_images = sum(draw.micro_batch == draws[0].micro_batch for draw in draws)
    images = torch.zeros((num_images, 3, crop, crop), dtype=torch.uint8)
    num_rows_of_batch = num_rows(num_images * stage.num_micro_batches)
    try:
        with explained_errors(stage), _unchanged(student), dropout_rows(range(num_images), num_rows_of_batch):
            torch.autograd.backward(student.coarse_logits(images).float().sum())
    except OF_MODULES as error:
        model = getattr(student.model, "model", student.model)  # of transformers, in any network
        raise TrainingError(
            f"{stage.name}: the student {type(model).__name__} cannot be trained on {num_images} images of {crop} x "
            f"{crop} pixels ({first_line(error)}); change train.crop, train.accumulate or the batch sizes of "
            f"{stage.name}, or set train.student to another network"
        ) from None


@contextlib.contextmanager
def _unchanged(student: Student) -> Iterator[None]:
    """Context of a pass in training mode that leaves no trace in the network and in torch's generators."""
    network, device = student.model, student.compute.device
    buffers, was_training = [buffer.clone() for buffer in network.buffers()], network.training
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network.train()
        try:
            yield
        finally:
            network.train(was_training)
            _restore(network, buffers)
            network.zero_grad(set_to_none=True)


@torch.no_grad()
def _restore(network: nn.Module, buffers: list[torch.Tensor]) -> None:
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)

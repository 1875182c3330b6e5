"""The loss of both stages: cross-entropy of coarse logits that are up-sampled to the size of the targets."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """For each image, the sum of the cross-entropies of its pixels that have a class.

    The images are up-sampled one at a time, and the gradient is computed in place at once. The memory needed is that of
    one image's full-size logits, whatever the batch size (150 classes at 513 x 513 pixels: 158 MB).

    logits:  float [B, K, h, w]; computed in float32 whatever their type
    targets: uint8 [B, H, W], class index or IGNORE_INDEX
    returns: float32 [B]
    """
    sums: Tensor = _SummedCrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return sums


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        down, across = _matrices(logits, targets)
        sums, gradients = [], []
        with torch.autocast(logits.device.type, enabled=False):
            for image, target in zip(logits, targets, strict=True):
                total, fine_gradient = _cross_entropy(_fine(image, down, across), target)
                sums.append(total)
                if ctx.needs_input_grad[0]:
                    gradients.append((down.T @ (fine_gradient @ across)).to(logits.dtype))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.stack(gradients))
        return torch.stack(sums)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None, None, None].to(gradient.dtype), None


def _cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the pixels that have a class, float32 [], and its gradient, softmax minus one-hot, float32 [K, H, W]."""
    has_class = target != IGNORE_INDEX
    true_class = target.masked_fill(~has_class, 0).long()[None]
    log_probabilities = logits.log_softmax(dim=0)
    total = -(log_probabilities.gather(0, true_class)[0] * has_class).sum()
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(0, true_class, gradient.new_full((), -1.0).expand_as(true_class))
    return total, gradient.mul_(has_class)


@torch.no_grad()
def true_class_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """The probability of each pixel's true class, from logits up-sampled as for the loss.

    logits:  float [B, K, h, w]
    targets: uint8 [B, H, W], class index or IGNORE_INDEX
    returns: float32 [B, H, W] in [0, 1]; +inf where a pixel has no class
    """
    down, across = _matrices(logits, targets)
    probabilities = torch.full(targets.shape, torch.inf, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        for number, (image, target) in enumerate(zip(logits, targets, strict=True)):
            has_class = target != IGNORE_INDEX
            true_class = target.masked_fill(~has_class, 0).long()[None]
            of_true = _fine(image, down, across).softmax(dim=0).gather(0, true_class)[0]
            probabilities[number] = of_true.masked_fill(~has_class, torch.inf)
    return probabilities


def _fine(image: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Up-sample the coarse logits of one image, float [K, h, w], to float32 [K, H, W].

    Multiplication by two small matrices up-samples; multiplication by their transposes gives the gradient. That is
    faster than the backward pass of `interpolate`, and on CUDA it sums in the same order in every run.
    """
    fine: Tensor = down @ (image.float().contiguous() @ across.T)
    return fine


def _matrices(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolation matrices from the rows and columns of the logits to those of the targets."""
    (height, width), (rows, columns) = logits.shape[-2:], targets.shape[-2:]
    return interpolation(height, rows, logits.device), interpolation(width, columns, logits.device)


@lru_cache(maxsize=16)
def interpolation(coarse: int, fine: int, device: torch.device) -> Tensor:
    """The matrix that `upsampled` applies along an axis: float32 [fine, coarse], rows sum to 1."""
    identity = torch.eye(coarse, device=device)[:, None]  # one signal per coarse value
    rows: Tensor = functional.interpolate(identity, size=fine, mode="linear", align_corners=False)[:, 0].T
    return rows.contiguous()


def upsampled(logits: Tensor, size: Any) -> Tensor:
    """Bilinear up-sampling: float [B, K, h, w] -> float [B, K, *size]."""
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def num_with_class(targets: Tensor) -> Tensor:
    """Number of pixels that have a class: int64 []. targets: uint8 [...], class index or IGNORE_INDEX."""
    return (targets != IGNORE_INDEX).sum()

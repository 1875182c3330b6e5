"""The loss of both stages: cross-entropy of coarse logits, up-sampled to the targets."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of each image's pixels that have a class, logits up-sampled to the targets' size.

    One image after the other is up-sampled and its gradient taken at once, in place: the memory is that of one image's
    full-size logits, whatever the batch (150 classes at 513 x 513: 158 MB, not several times that for each image).

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
    """Sum over the pixels that have a class, float32 [], and its gradient, softmax less one-hot, float32 [K, H, W]."""
    has_class = target != IGNORE_INDEX
    true_class = target.masked_fill(~has_class, 0).long()[None]
    log_probabilities = logits.log_softmax(dim=0)
    total = -(log_probabilities.gather(0, true_class)[0] * has_class).sum()
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(0, true_class, gradient.new_full((), -1.0).expand_as(true_class))
    return total, gradient.mul_(has_class)


@torch.no_grad()
def true_class_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """float32 [B, H, W]: the probability of each pixel's class, up-sampled as for the loss; +inf without a class.

    logits:  float [B, K, h, w]
    targets: uint8 [B, H, W], class index or IGNORE_INDEX
    """
    down, across = _matrices(logits, targets)
    probabilities = torch.full(targets.shape, torch.inf, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        for place, (image, target) in enumerate(zip(logits, targets, strict=True)):
            has_class = target != IGNORE_INDEX
            true_class = target.masked_fill(~has_class, 0).long()[None]
            of_true = _fine(image, down, across).softmax(dim=0).gather(0, true_class)[0]
            probabilities[place] = of_true.masked_fill(~has_class, torch.inf)
    return probabilities


def _fine(image: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """float32 [K, H, W] of one image's coarse logits [K, h, w].

    Two small matrices up-sample; their transposes take the gradient back, faster than the backward pass of interpolate,
    and on CUDA in an order that is the same in every run.
    """
    fine: Tensor = down @ (image.float().contiguous() @ across.T)
    return fine


def _matrices(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What brings rows and columns of the logits to the size of the targets."""
    (height, width), (rows, columns) = logits.shape[-2:], targets.shape[-2:]
    return interpolation(height, rows, logits.device), interpolation(width, columns, logits.device)


@lru_cache(maxsize=16)
def interpolation(coarse: int, fine: int, device: torch.device) -> Tensor:
    """float32 [fine, coarse]: the matrix that `upsampled` applies to each axis, whose weights in a row sum to 1."""
    identity = torch.eye(coarse, device=device)[:, None]  # one signal for each coarse value
    rows: Tensor = functional.interpolate(identity, size=fine, mode="linear", align_corners=False)[:, 0].T
    return rows.contiguous()


def upsampled(logits: Tensor, size: Any) -> Tensor:
    """float [B, K, *size], bilinear."""
    return functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def num_with_class(targets: Tensor) -> Tensor:
    """int64 [], pixels that have a class."""
    return (targets != IGNORE_INDEX).sum()

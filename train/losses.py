"""The losses of coarse logits that are up-sampled to the size of the targets.

Cross-entropy is the loss of both stages; the partial-label loss is that of prediction sets in Stage I.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from calib.sets import BITS
from pipeline.datasets import IGNORE_INDEX

LossOfImage = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits float32 [K, H, W], target of the image) -> sum over its pixels, float32 [], and its gradient [K, H, W]."""


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """For each image, the sum of the cross-entropies of its pixels that have a class.

    The images are up-sampled one at a time, and the gradient is computed in place at once. The memory needed is that of
    one image's full-size logits, whatever the batch size (150 classes at 513 x 513 pixels: 158 MB).

    logits:  float [B, K, h, w]; computed in float32 whatever their type
    targets: uint8 [B, H, W], class index or IGNORE_INDEX
    returns: float32 [B]
    """
    sums: Tensor = _SummedLoss.apply(logits, targets, _cross_entropy)  # type: ignore[no-untyped-call]
    return sums


def summed_partial_loss(logits: Tensor, sets: Tensor) -> Tensor:
    """For each image, the sum over its pixels of -log of the probability mass on the pixel's set of classes.

    This partial-label loss is -log P(y in S | x): it asks for one of the classes of S without preferring any (the
    likelihood of Jin & Ghahramani 2002, "Learning with multiple labels"; Cour, Sapp & Taskar 2011, "Learning from
    partial labels", has its setting). For a set of one class it is the cross-entropy, for the set of all classes 0. S
    holds the true class with the coverage of the prediction sets, which the loss takes as certain.

    Computed as the cross-entropies: one image at a time, with its gradient.

    logits:  float [B, K, h, w]; computed in float32 whatever their type
    sets:    uint8 [B, bytes, H, W], `calib.pack_sets` of each image; a pixel with an empty set does not count
    returns: float32 [B]
    """
    sums: Tensor = _SummedLoss.apply(logits, sets, _partial_loss)  # type: ignore[no-untyped-call]
    return sums


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, loss_of_image: LossOfImage) -> Tensor:
        down, across = _matrices(logits, targets)
        sums, gradients = torch.zeros(len(logits), device=logits.device), logits.new_empty(logits.shape)
        with torch.autocast(logits.device.type, enabled=False):
            for number, (image, target) in enumerate(zip(logits, targets, strict=True)):
                sums[number], fine_gradient = loss_of_image(_fine(image, down, across), target)
                if ctx.needs_input_grad[0]:
                    gradients[number] = down.T @ (fine_gradient @ across)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(gradients)
        return sums

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None, None, None].to(gradient.dtype), None, None


def _cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the pixels that have a class, float32 [], and its gradient, softmax minus one-hot, float32 [K, H, W]."""
    has_class = target != IGNORE_INDEX
    true_class = target.masked_fill(~has_class, 0).long()[None]
    log_probabilities = logits.log_softmax(dim=0)
    total = -(log_probabilities.gather(0, true_class)[0] * has_class).sum()
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(0, true_class, gradient.new_full((), -1.0).expand_as(true_class))
    return total, gradient.mul_(has_class)


def _partial_loss(logits: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the pixels that have a set, float32 [], and its gradient, float32 [K, H, W].

    With a and b the logsumexp over the classes inside and outside of the set, -log of the mass inside is
    log(e^a + e^b) - a = softplus(b - a), which is accurate for masses near 0 and near 1. The gradient is the mass
    outside, sigmoid(b - a), times the softmax among the classes outside, minus the same times that of those inside.

    sets: uint8 [bytes, H, W]
    """
    inside = unpacked_sets(sets, len(logits))
    has_set = (sets != 0).any(dim=0)
    mass_inside = logits.masked_fill(~inside, -torch.inf).logsumexp(dim=0)
    mass_outside = logits.masked_fill(inside, -torch.inf).logsumexp(dim=0)
    odds = mass_outside - mass_inside
    total = functional.softplus(odds).masked_fill(~has_set, 0).sum()
    # Each class is compared with the classes on its own side, which it is one of, so no difference is infinite.
    gradient = (logits - torch.where(inside, mass_inside, mass_outside)).exp_()
    gradient *= odds.sigmoid().masked_fill(~has_set, 0)
    return total, torch.where(inside, -gradient, gradient)


def unpacked_sets(sets: Tensor, num_classes: int) -> Tensor:
    """`calib.unpack_sets` on the device: uint8 [bytes, H, W] -> bool [num_classes, H, W]."""
    classes = torch.arange(num_classes, device=sets.device)
    shifts = (classes % BITS).to(torch.uint8)[:, None, None]
    return (sets[classes // BITS] >> shifts & 1).bool()


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


def num_with_set(sets: Tensor) -> Tensor:
    """Number of pixels that have a set: int64 []. sets: uint8 [B, bytes, H, W], as `calib.pack_sets` packs them."""
    return (sets != 0).any(dim=1).sum()

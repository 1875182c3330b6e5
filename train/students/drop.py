"""Drop path and channel dropout that draw for the whole batch, so that any number of processes draws what one would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _Rows:
    """Places in a batch as a tensor: torch.compile would compile again for every tuple of numbers."""

    def __init__(self, rows: Sequence[int], num_rows: int):
        self.num_rows = num_rows
        self.rows = torch.tensor(rows)

    def of(self, draws: Tensor) -> Tensor:
        """Those of the draws that are for the images of this pass."""
        if self.rows.device != draws.device:
            self.rows = self.rows.to(draws.device, non_blocking=True)  # once, not for every mask
        return draws[self.rows]


_part: _Rows | None = None


@contextmanager
def dropout_rows(rows: Sequence[int], num_rows: int) -> Iterator[None]:
    """Context of a pass over some images of a whole batch of `num_rows`: those whose places in it are `rows`.

    Promise: passes over the parts of a batch that start from the same state of torch's generator together drop what one
    pass over the whole batch drops, and leave the generator where that leaves it: each draws for the whole batch.
    Without this context a pass draws for the images that it gets.
    """
    global _part  # not a context variable, which torch.compile cannot trace
    outer, _part = _part, _Rows(rows, num_rows)
    try:
        yield
    finally:
        _part = outer


def keep_mask(x: Tensor, shape: Sequence[int], probability: float) -> Tensor:
    """0 with a probability, else 1 / (1 - probability), for the images of this pass.

    x:       float [B, ...], gives B, device and dtype; or [B*P, ...], the P patches of an image after each other, as
             MobileViT has them
    shape:   of the mask of an image, or of a patch
    returns: [len(x), *shape], dtype of x
    """
    part = _part
    if part is None:
        draws = torch.rand((len(x), *shape), device=x.device)
    else:
        patches = len(x) // len(part.rows)
        draws = part.of(torch.rand((part.num_rows, patches, *shape), device=x.device)).flatten(0, 1)
    return (draws >= probability).to(x.dtype) / (1 - probability)


class _Drop(nn.Module):
    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        """Of one image's mask."""
        raise NotImplementedError

    def is_active(self) -> bool:
        return self.training and self.probability > 0

    def forward(self, x: Tensor) -> Tensor:
        """float [B, ...] -> the same, with parts dropped while training."""
        return x * keep_mask(x, self.mask_shape(x), self.probability) if self.is_active() else x

    def extra_repr(self) -> str:
        return f"p={self.probability}"


class DropPath(_Drop):
    """Drops the whole branch of an image (stochastic depth)."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return (1,) * (x.ndim - 1)

    def onto(self, residual: Tensor, branch: Tensor) -> Tensor:
        """float [B, ...] twice -> residual + what is kept of the branch, in one pass over memory."""
        if not self.is_active():
            return residual + branch
        return torch.addcmul(residual, branch, keep_mask(branch, self.mask_shape(branch), self.probability))


class ChannelDropout(_Drop):
    """Drops channels of an image's map [D, h, w]."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[1], 1, 1)


class Dropout(_Drop):
    """Drops single values."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[1:])


def share_draws(network: nn.Module) -> None:
    """Let every drop path and dropout in a network of transformers draw for the whole batch, in place."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child).__name__.endswith("DropPath") and not isinstance(child, DropPath):
                setattr(module, name, DropPath(float(getattr(child, "drop_prob", None) or 0.0)))
            elif type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))

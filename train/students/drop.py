"""Drop path and dropout that draw for the whole batch, so that results do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _Rows:
    """Rows of a batch as a tensor, because torch.compile would compile again for every tuple of numbers."""

    def __init__(self, rows: Sequence[int], num_rows: int):
        self.num_rows = num_rows
        self.rows = torch.tensor(rows)

    def of(self, draws: Tensor) -> Tensor:
        """The draws [num_rows, ...] of these rows."""
        if self.rows.device != draws.device:
            self.rows = self.rows.to(draws.device, non_blocking=True)  # once, not for every mask
        return draws[self.rows]


_rows: _Rows | None = None  # of the current pass


@contextmanager
def dropout_rows(rows: Sequence[int], num_rows: int) -> Iterator[None]:
    """Context of a pass over the images `rows` of a whole batch of `num_rows` images.

    Each pass draws for the whole batch. So passes over the micro-batches of a batch that start from the same state of
    torch's generator drop together the same values as one pass over the whole batch, and leave the generator in the
    same state. Without this context a pass draws for its own images.
    """
    global _rows  # not a context variable, which torch.compile cannot trace
    outer, _rows = _rows, _Rows(rows, num_rows)
    try:
        yield
    finally:
        _rows = outer


def keep_mask(x: Tensor, shape: Sequence[int], probability: float) -> Tensor:
    """A random dropout mask for the images of this pass: 0 with the given probability, otherwise 1 / (1 - probability).

    x:           float [B, ...], gives B, device and dtype; or [B*P, ...], where the P patches of an image follow each
                 other, as in MobileViT
    shape:       shape of the mask of an image, or of a patch
    probability: in [0, 1)
    returns:     [len(x), *shape], dtype of x
    """
    rows = _rows
    if rows is None:
        draws = torch.rand((len(x), *shape), device=x.device)
    else:
        patches = len(x) // len(rows.rows)
        draws = rows.of(torch.rand((rows.num_rows, patches, *shape), device=x.device)).flatten(0, 1)
    return (draws >= probability).to(x.dtype) / (1 - probability)


class _Drop(nn.Module):
    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the mask of one image."""
        raise NotImplementedError

    def is_active(self) -> bool:
        """Whether the layer drops anything: in training mode, with a probability above 0."""
        return self.training and self.probability > 0

    def forward(self, x: Tensor) -> Tensor:
        """float [B, ...] -> float of the same shape, with dropped values in training mode."""
        return x * keep_mask(x, self.mask_shape(x), self.probability) if self.is_active() else x

    def extra_repr(self) -> str:
        return f"p={self.probability}"


class DropPath(_Drop):
    """Drops the whole branch of an image (drop path, stochastic depth)."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return (1,) * (x.ndim - 1)

    def onto(self, residual: Tensor, branch: Tensor) -> Tensor:
        """residual + dropped branch, float [B, ...] each, in one pass over the memory."""
        if not self.is_active():
            return residual + branch
        return torch.addcmul(residual, branch, keep_mask(branch, self.mask_shape(branch), self.probability))


class ChannelDropout(_Drop):
    """Drops whole channels of an image's feature map [D, h, w]."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[1], 1, 1)


class Dropout(_Drop):
    """Drops single values."""

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[1:])


def share_draws(network: nn.Module) -> None:
    """Replace every drop path and dropout of a network of transformers by one that draws for the whole batch."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child).__name__.endswith("DropPath") and not isinstance(child, DropPath):
                setattr(module, name, DropPath(float(getattr(child, "drop_prob", None) or 0.0)))
            elif type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))

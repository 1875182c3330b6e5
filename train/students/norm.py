"""Batch normalisation with the statistics of the batches of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.machine.processes import summed, world


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics in training mode are those of the whole batch, over all processes.

    nn.SyncBatchNorm does the same, but not for CPU tensors. Statistics are computed in float32, also under autocast.
    The gradient is that of the sum of the losses of all processes.
    """

    is_frozen = False
    """Normalise by the running statistics in training mode too, and do not update them."""

    def forward(self, x: Tensor) -> Tensor:
        """float [B, D, h, w] -> float of the same shape."""
        if self.is_frozen:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        if world().size == 1 or not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._shared(x)

    def _shared(self, x: Tensor) -> Tensor:
        mean, variance, count = shared_statistics(x)
        self._update(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        # Only the statistics need float32; the result has the type of x, as in nn.BatchNorm2d.
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.float()
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


def shared_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel, and the number of values per channel, over all processes.

    They need two all-reduces, the mean first, because a variance from sums of squares is inexact where the mean is
    large.

    x:       float [B, D, h, w], batch of this process
    returns: float32 [D], float32 [D], float32 []
    """
    variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    own_count = mean.new_tensor([x.numel() / x.shape[1]])
    sums = all_summed(torch.cat([mean * own_count, own_count]))
    count = sums[-1].detach()
    shared_mean = sums[:-1] / count
    shared_variance = all_summed((variance + (mean - shared_mean).square()) * own_count) / count
    return shared_mean, shared_variance, count


def all_summed(tensor: Tensor) -> Tensor:
    """All-reduce with a gradient: the sum of the tensors of all processes, differentiated for the sum of all losses."""
    total: Tensor = _AllSummed.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _AllSummed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return summed(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        return summed(outer[0].clone())


def share_statistics(network: nn.Module) -> None:
    """Make every nn.BatchNorm2d of a network a BatchNorm2d of this module, in place; parameter names do not change."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d

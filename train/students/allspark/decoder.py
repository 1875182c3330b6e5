"""AllSpark's block between encoder and head: labeled channels are rebuilt from unlabeled ones by channel attention.

After "AllSpark: Reborn Labeled Features from Unlabeled in Transformer for Semi-Supervised Semantic Segmentation" (CVPR
2024). A token is a channel, its vector the channel's N values over the map. Maps of logits have a row and a column a
channel, with a memory of 150 classes 157 million entries an image, so they are not formed: of the instance norm before
the softmax the mean does not matter to the softmax, and the standard deviation follows from two N x N matrices. What is
left is scaled dot-product attention, for which torch has kernels without the map. With dropout 0 the result is that of
the equations to rounding; with dropout it has their distribution, not the same random numbers.

Axes: B image, C channel, N place of the map, h head, K class, L query, M key; S and G: `ChannelAttention.across`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # of the layer norms
MAP_EPS = 1e-5  # of the instance norm
ALIGNMENT = 8  # values: CUDA's memory-efficient kernel takes vectors whose length is a multiple of it
QUERIES_AT_A_TIME = 256  # on a CPU with dropout; each time the gradients of all keys are added up

Memory = tuple[Tensor, Tensor]
"""Vectors float [K, C, N], and which of them there are, bool [K, C] (train.students.allspark.memory)."""


class AllSparkBlock(nn.Module):
    """Convolution, channel attention, convolution on the encoder's last map; 4.72 million parameters at 512 channels.

    Labeled images look at unlabeled ones (cross-attention), unlabeled ones at themselves (self-attention). In
    evaluation mode an image plays both roles and what comes of the labeled one is returned.

    dropout: share, of the attention as well as of its result
    """

    def __init__(self, num_channels: int, num_heads: int = 2, dropout: float = 0.1):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(num_channels, num_channels, 1), nn.GELU())
        self.enter_norm = nn.LayerNorm(num_channels, eps=NORM_EPS)
        self.self_attention = ChannelAttention(num_channels, num_heads, dropout)
        self.cross_attention = ChannelAttention(num_channels, num_heads, dropout)
        self.leave_norm = nn.LayerNorm(num_channels, eps=NORM_EPS)
        self.leave = nn.Sequential(nn.Conv2d(num_channels, num_channels, 1), nn.GELU())

    def forward(
        self,
        features: Tensor,
        num_labeled: int = 0,
        memory: Memory | None = None,
        remember: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """float [B, C, H, W] -> float [B, C, H, W].

        In evaluation mode only `features` counts.

        num_labeled: how many images, the first ones, are labeled; there may be none, and any number of others
        memory:      what labeled images look at. None (warm-up): the unlabeled images of this batch; if several
                     processes share it, of this process
        remember:    called with the unlabeled images' channels, float [B, C, H, W] without gradient, before the memory
                     is read: where published training fills the memory
        """
        entered = self.enter(features)
        channels = over_channels(self.enter_norm, entered)
        if self.training:
            labeled, unlabeled = channels[:num_labeled], channels[num_labeled:]
            if remember is not None:
                remember(unlabeled.detach())
            attended = self._attend(labeled.flatten(2), unlabeled.flatten(2), memory)
        else:
            attended = self.evaluated(channels.flatten(2))
        mixed: Tensor = self.leave(over_channels(self.leave_norm, attended.view_as(entered) + entered))
        return mixed

    def evaluated(self, channels: Tensor) -> Tensor:
        """float [B, C, N] -> the same: each image attends to itself, so its result does not depend on the others.

        (The published code attends to all images of the batch.)
        """
        return self.cross_attention.across(channels, channels[:, None])

    def _attend(self, labeled: Tensor, unlabeled: Tensor, memory: Memory | None) -> Tensor:
        """float [B, C, N] each, and of both."""
        parts = []
        if len(labeled):
            sources, is_source = key_sources(unlabeled, memory)
            parts.append(self.cross_attention.across(labeled, sources[None], is_source))
        if len(unlabeled):
            parts.append(self.self_attention.within(unlabeled))
        return torch.cat(parts)


def over_channels(norm: nn.LayerNorm, features: Tensor) -> Tensor:
    """A layer norm over C of float [B, C, H, W]."""
    normalised: Tensor = norm(features.movedim(1, -1))
    return normalised.movedim(-1, 1)


def key_sources(unlabeled: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
    """What labeled images look at: maps float [G, C, N] and which of them there are, bool [G] (None: all).

    Of a memory there is a map a class; a vector that is not there adds nothing to any key (it is 0 in front of a linear
    layer), and a class without vectors has no keys. In a memory without any vector the unlabeled images take the first
    places; whether it is one the device decides, the host does not wait for it. A memory carries no gradient.

    unlabeled: float [B, C, N]
    """
    if memory is None:
        if not len(unlabeled):
            raise ValueError("labeled images have nothing to look at: no unlabeled image and no memory")
        return unlabeled, None
    vectors, is_there = memory
    num_images, num_sources = len(unlabeled), max(len(unlabeled), len(vectors))
    sources = _lengthened(vectors.masked_fill(~is_there[..., None], 0), num_sources)
    is_class = is_there.any(dim=1)
    is_any = is_class.any()
    sources[:num_images] = torch.where(is_any, sources[:num_images], unlabeled.detach())
    is_image = torch.arange(num_sources, device=vectors.device) < num_images
    return sources, torch.where(is_any, _lengthened(is_class, num_sources), is_image)


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    """[length, ...], with zeros behind."""
    missing = length - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor


class ChannelAttention(nn.Module):
    """Attention whose tokens are channels: h C of them once the linear layers have mixed C."""

    def __init__(self, num_channels: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        num_mixed = num_heads * num_channels
        self.query = nn.Linear(num_channels, num_mixed, bias=False)
        self.key = nn.Linear(num_channels, num_mixed, bias=False)
        self.value = nn.Linear(num_channels, num_mixed, bias=False)
        self.out = nn.Linear(num_mixed, num_channels, bias=False)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)

    def within(self, channels: Tensor) -> Tensor:
        """Channels of an image look at one another, head by head. float [B, C, N] -> float [B, C, N]."""
        by_head = (len(channels), self.num_heads, *channels.shape[1:])
        query, key, value = (_mixed(linear, channels).view(by_head) for linear in (self.query, self.key, self.value))
        attended = channel_attention(query, key, value, self._share())  # [B, h, C, N]
        return self._result(attended.transpose(1, 2).flatten(1, 2))  # heads of a channel side by side, as published

    def across(self, channels: Tensor, sources: Tensor, is_source: Tensor | None = None) -> Tensor:
        """Channels of an image look at those of other maps, all h C x M h C in one map. Returns float [B, C, N].

        channels:  float [B, C, N]
        sources:   float [S, G, C, N]: G maps that an image looks at, S = 1 (the same for all) or B
        is_source: bool [G], which maps there are. None: all
        """
        side_by_side = sources.transpose(1, 2).flatten(2)  # [S, C, G N]
        one_map = (len(sources), 1, -1, sources.shape[-1])
        key, value = (
            _mixed(linear, side_by_side).view(one_map) for linear in (self.key, self.value)
        )  # [S, 1, h C G, N]
        query = _mixed(self.query, channels)[:, None]  # [B, 1, h C, N]
        is_key = None if is_source is None else is_source.repeat(query.shape[2])
        return self._result(channel_attention(query, key, value, self._share(), is_key)[:, 0])

    def _share(self) -> float:
        return self.dropout if self.training else 0.0

    def _result(self, attended: Tensor) -> Tensor:
        """float [B, h C, N] -> float [B, C, N]."""
        return functional.dropout(_mixed(self.out, attended), self.dropout, self.training)


def _mixed(linear: nn.Linear, channels: Tensor) -> Tensor:
    """A linear layer over the channels of float [B, C, N]; `weight @ channels` would copy both it and the result."""
    return linear.weight.expand(len(channels), -1, -1) @ channels


def channel_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, is_key: Tensor | None = None
) -> Tensor:
    """dropout(softmax(instance_norm(query key^T))) value, without the map.

    The norm is per image and head, over all queries and the keys that there are.

    query:   float [B, h, L, N]
    key:     float [S, h, M, N], S = 1 (the same for all images) or B
    value:   float [S, h, M, V], V = N in the block; its type is the result's
    is_key:  bool [M], which keys there are, at least one. None: all
    returns: float [B, h, L, V]
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, mean = precise(query), *centred_keys(precise(key), is_key)
        query = query * inverse_deviation(query, key, mean, is_key)
    query, key = query.to(value.dtype), key.to(value.dtype)
    if len(key) == len(query):
        return _attention(query, key, value, dropout, is_key)
    together = query.transpose(0, 1).flatten(1, 2)[None]  # [1, h, B L, N]: the keys need not be repeated
    attended = _attention(together, key, value, dropout, is_key)
    return attended.reshape(*query.transpose(0, 1).shape[:3], -1).transpose(0, 1)


def precise(tensor: Tensor) -> Tensor:
    """float32, or float64 if it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def centred_keys(key: Tensor, is_key: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys less their mean, which adds the same to all logits of a query: a softmax does not see it.

    key:     float [S, h, M, N]
    is_key:  bool [M], which keys there are. None: all
    returns: float [S, h, M, N], 0 where there is no key, and the mean, float [S, h, 1, N]
    """
    if is_key is None:
        mean = key.mean(dim=-2, keepdim=True)
        return key - mean, mean
    weights = is_key.to(key.dtype)
    mean = (weights / weights.sum())[None] @ key
    return (key - mean).mul_(weights[:, None]), mean


def inverse_deviation(query: Tensor, centred: Tensor, mean: Tensor, is_key: Tensor | None = None) -> Tensor:
    """1 / sqrt(variance + eps) of each map of logits query (centred + mean)^T.

    With q_i a query, k_j a centred key and m their mean, the variance is that of q_i m over i plus the mean of
    (q_i k_j)^2 over i and j, which is <Q^T Q, K^T K> / (L M). Neither is negative, so nothing cancels, as it does in
    "mean of squares less square of mean".

    query:   float [B, h, L, N]
    centred: float [S, h, M, N], and
    mean:    float [S, h, 1, N], as `centred_keys` returns them
    is_key:  bool [M]
    returns: float [B, h, 1, 1]
    """
    num_keys = centred.shape[-2] if is_key is None else is_key.sum()
    products = (query.mT @ query) * (centred.mT @ centred / num_keys)
    around = products.sum(dim=(-2, -1), keepdim=True) / query.shape[-2]
    drift = (query @ mean.mT).var(dim=-2, keepdim=True, correction=0)
    return (around + drift + MAP_EPS).rsqrt()


def _attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, is_key: Tensor | None) -> Tensor:
    """softmax(query key^T) value by torch's kernels: memory-efficient on CUDA, flash on a CPU."""
    if dropout and query.device.type == "cpu":
        return _attention_in_blocks(query, key, value, dropout, is_key)
    width = value.shape[-1]
    if query.is_cuda:
        query, key, value = _aligned(query), _aligned(key), _aligned(value)
    is_visible = None if is_key is None else is_key[None, None, None]  # [1, 1, 1, M]: not repeated for every query
    attended = functional.scaled_dot_product_attention(query, key, value, is_visible, dropout, scale=1.0)
    return attended[..., :width]


def _aligned(vectors: Tensor) -> Tensor:
    """With zeros behind, which add nothing to any product."""
    missing = -vectors.shape[-1] % ALIGNMENT
    return functional.pad(vectors, (0, missing)) if missing else vectors


def _attention_in_blocks(query: Tensor, key: Tensor, value: Tensor, dropout: float, is_key: Tensor | None) -> Tensor:
    """For a CPU, whose kernel forms the map if there is dropout: some queries at a time, once more for the gradient."""

    def of_some(queries: Tensor) -> Tensor:
        logits = queries @ key.mT
        if is_key is not None:
            logits = logits.masked_fill(~is_key, -torch.inf)
        return functional.dropout(logits.softmax(dim=-1), dropout) @ value

    if query.shape[-2] <= QUERIES_AT_A_TIME:
        return of_some(query)
    parts = torch.split(query, QUERIES_AT_A_TIME, dim=-2)
    attended: list[Tensor] = [checkpoint(of_some, part, use_reentrant=False) for part in parts]
    return torch.cat(attended, dim=-2)

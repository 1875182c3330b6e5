"""AllSpark's block between encoder and head: rebuilds labeled channels from unlabeled ones by channel attention.

After "AllSpark: Reborn Labeled Features from Unlabeled in Transformer for Semi-Supervised Semantic Segmentation" (CVPR
2024). A token is a channel; its vector are the channel's N values over the feature map. The attention maps have a row
and a column per channel: with a memory of 150 classes 157 million entries per image. So they are never formed. The
equations have an instance norm before the softmax: its mean does not change the softmax, and its standard deviation
follows from two N x N matrices. The rest is scaled dot-product attention, for which torch has kernels that do not form
the map. Without dropout the result equals that of the equations up to rounding; with dropout it has the same
distribution, but other random numbers.

Axes: B image, C channel, N pixel of the feature map, h head, K class, L query, M key; S and G as in
`ChannelAttention.across`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6  # of the layer norms
MAP_EPS = 1e-5  # of the instance norm
ALIGNMENT = 8  # CUDA's memory-efficient kernel needs vectors whose length is a multiple of this
QUERIES_AT_A_TIME = 256  # on a CPU with dropout; the gradients of all keys are added up for each block of queries

Memory = tuple[Tensor, Tensor]
"""Vectors, float [K, C, N], and which of them are filled, bool [K, C] (train.students.allspark.memory)."""


class AllSparkBlock(nn.Module):
    """Convolution, channel attention, convolution on the encoder's last map; 4.72 million parameters at 512 channels.

    Labeled images attend to unlabeled ones (cross-attention), and unlabeled images attend to themselves
    (self-attention). In evaluation mode every image attends to itself by the cross-attention.

    dropout: dropout rate of the attention and of its result, in [0, 1)
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

        In evaluation mode only `features` is used.

        num_labeled: number of labeled images, which come first; it may be 0, with any number of unlabeled images
        memory:      the vectors that labeled images attend to. None (warm-up): those of the unlabeled images of this
                     process
        remember:    called with the channels of the unlabeled images, float [B, C, H, W] without gradient, before the
                     memory is read, which is where published training fills the memory
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
        """The block in evaluation mode: float [B, C, N] -> float [B, C, N].

        Each image attends to itself, so its result does not depend on the other images. (In the published code each
        image attends to all images of the batch.)
        """
        return self.cross_attention.across(channels, channels[:, None])

    def _attend(self, labeled: Tensor, unlabeled: Tensor, memory: Memory | None) -> Tensor:
        """Attended channels of the labeled, then of the unlabeled images: float [B, C, N] of each and of all."""
        attended = []
        if len(labeled):
            context, is_present = context_maps(unlabeled, memory)
            attended.append(self.cross_attention.across(labeled, context[None], is_present))
        if len(unlabeled):
            attended.append(self.self_attention.within(unlabeled))
        return torch.cat(attended)


def over_channels(norm: nn.LayerNorm, features: Tensor) -> Tensor:
    """A layer norm over the axis C of float [B, C, H, W]."""
    normalised: Tensor = norm(features.movedim(1, -1))
    return normalised.movedim(-1, 1)


def context_maps(unlabeled: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
    """The maps that labeled images attend to.

    A memory has one map per class. An empty vector adds nothing to any key, because it is 0 before a linear layer, and
    a class without vectors has no keys. If the whole memory is empty, the unlabeled images take its place. The device
    decides that, so the host does not wait. A memory carries no gradient.

    unlabeled: float [B, C, N]
    returns:   float [G, C, N], and which of the maps are present, bool [G]; None: all of them
    """
    if memory is None:
        if not len(unlabeled):
            raise ValueError("labeled images have nothing to attend to: no unlabeled image and no memory")
        return unlabeled, None
    vectors, is_filled = memory
    num_images, num_maps = len(unlabeled), max(len(unlabeled), len(vectors))
    maps = _lengthened(vectors.masked_fill(~is_filled[..., None], 0), num_maps)
    has_vectors = is_filled.any(dim=1)
    is_any = has_vectors.any()
    maps[:num_images] = torch.where(is_any, maps[:num_images], unlabeled.detach())
    is_image = torch.arange(num_maps, device=vectors.device) < num_images
    return maps, torch.where(is_any, _lengthened(has_vectors, num_maps), is_image)


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    """A tensor extended by zeros to [length, ...]."""
    missing = length - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor


class ChannelAttention(nn.Module):
    """Attention whose tokens are channels; the linear layers mix C channels into h C."""

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
        """Self-attention among the channels of each image, head by head: float [B, C, N] -> float [B, C, N]."""
        by_head = (len(channels), self.num_heads, *channels.shape[1:])
        query, key, value = (_mixed(linear, channels).view(by_head) for linear in (self.query, self.key, self.value))
        attended = channel_attention(query, key, value, self._dropout_rate())  # [B, h, C, N]
        return self._result(attended.transpose(1, 2).flatten(1, 2))  # the heads of a channel side by side, as published

    def across(self, channels: Tensor, context: Tensor, is_present: Tensor | None = None) -> Tensor:
        """Attention of the channels of each image to those of other maps; all heads are in one attention map.

        channels:   float [B, C, N]
        context:    float [S, G, C, N]: the G maps that an image attends to; S = 1 (the same for all images) or B
        is_present: bool [G], which maps are present. None: all
        returns:    float [B, C, N]
        """
        side_by_side = context.transpose(1, 2).flatten(2)  # [S, C, G N]
        one_map = (len(context), 1, -1, context.shape[-1])
        key, value = (
            _mixed(linear, side_by_side).view(one_map) for linear in (self.key, self.value)
        )  # [S, 1, h C G, N]
        query = _mixed(self.query, channels)[:, None]  # [B, 1, h C, N]
        is_key = None if is_present is None else is_present.repeat(query.shape[2])
        return self._result(channel_attention(query, key, value, self._dropout_rate(), is_key)[:, 0])

    def _dropout_rate(self) -> float:
        return self.dropout if self.training else 0.0

    def _result(self, attended: Tensor) -> Tensor:
        """float [B, h C, N] -> float [B, C, N]."""
        return functional.dropout(_mixed(self.out, attended), self.dropout, self.training)


def _mixed(linear: nn.Linear, channels: Tensor) -> Tensor:
    """A linear layer over the channels of float [B, C, N]; `weight @ channels` would copy the weight and the result."""
    return linear.weight.expand(len(channels), -1, -1) @ channels


def channel_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, is_key: Tensor | None = None
) -> Tensor:
    """dropout(softmax(instance_norm(query key^T))) value, without forming the attention map.

    The norm is per image and head, over all queries and all present keys.

    query:   float [B, h, L, N]
    key:     float [S, h, M, N], S = 1 (the same for all images) or B
    value:   float [S, h, M, V], V = N in the block; it determines the dtype of the result
    dropout: dropout rate, in [0, 1)
    is_key:  bool [M], which keys are present, at least one. None: all
    returns: float [B, h, L, V]
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, mean = precise(query), *centred_keys(precise(key), is_key)
        query = query * inverse_deviation(query, key, mean, is_key)
    query, key = query.to(value.dtype), key.to(value.dtype)
    if len(key) == len(query):
        return _attention(query, key, value, dropout, is_key)
    together = query.transpose(0, 1).flatten(1, 2)[None]  # [1, h, B L, N], so that the keys are not repeated
    attended = _attention(together, key, value, dropout, is_key)
    return attended.reshape(*query.transpose(0, 1).shape[:3], -1).transpose(0, 1)


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32; a float64 tensor unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def centred_keys(key: Tensor, is_key: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys minus their mean, which adds the same to all logits of a query and so does not change a softmax.

    key:     float [S, h, M, N]
    is_key:  bool [M], which keys are present. None: all
    returns: float [S, h, M, N], 0 for a key that is not present; and the mean, float [S, h, 1, N]
    """
    if is_key is None:
        mean = key.mean(dim=-2, keepdim=True)
        return key - mean, mean
    weights = is_key.to(key.dtype)
    mean = (weights / weights.sum())[None] @ key
    return (key - mean).mul_(weights[:, None]), mean


def inverse_deviation(query: Tensor, centred: Tensor, mean: Tensor, is_key: Tensor | None = None) -> Tensor:
    """1 / sqrt(variance + eps) of each map of logits query (centred + mean)^T.

    With q_i a query, k_j a centred key and m the mean of the keys, the variance is the variance of q_i m over i, plus
    the mean of (q_i k_j)^2 over i and j, which is <Q^T Q, K^T K> / (L M). Both terms are non-negative, so there is no
    cancellation as in "mean of squares minus square of mean".

    query:   float [B, h, L, N]
    centred: float [S, h, M, N], and
    mean:    float [S, h, 1, N], as `centred_keys` returns them
    is_key:  bool [M]
    returns: float [B, h, 1, 1]
    """
    num_keys = centred.shape[-2] if is_key is None else is_key.sum()
    products = (query.mT @ query) * (centred.mT @ centred / num_keys)
    of_keys = products.sum(dim=(-2, -1), keepdim=True) / query.shape[-2]
    of_mean = (query @ mean.mT).var(dim=-2, keepdim=True, correction=0)
    return (of_keys + of_mean + MAP_EPS).rsqrt()


def _attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, is_key: Tensor | None) -> Tensor:
    """softmax(query key^T) value by torch's kernels: memory-efficient on CUDA, flash on a CPU."""
    if dropout and query.device.type == "cpu":
        return _attention_in_blocks(query, key, value, dropout, is_key)
    width = value.shape[-1]
    if query.is_cuda:
        query, key, value = _aligned(query), _aligned(key), _aligned(value)
    is_visible = None if is_key is None else is_key[None, None, None]  # [1, 1, 1, M], not repeated for every query
    attended = functional.scaled_dot_product_attention(query, key, value, is_visible, dropout, scale=1.0)
    return attended[..., :width]


def _aligned(vectors: Tensor) -> Tensor:
    """The vectors extended by zeros, which add nothing to any product, to a multiple of ALIGNMENT."""
    missing = -vectors.shape[-1] % ALIGNMENT
    return functional.pad(vectors, (0, missing)) if missing else vectors


def _attention_in_blocks(query: Tensor, key: Tensor, value: Tensor, dropout: float, is_key: Tensor | None) -> Tensor:
    """Attention on a CPU with dropout, for which torch's kernel would form the map: in blocks of queries.

    The blocks are computed again for the gradient.
    """

    def of_some(queries: Tensor) -> Tensor:
        logits = queries @ key.mT
        if is_key is not None:
            logits = logits.masked_fill(~is_key, -torch.inf)
        return functional.dropout(logits.softmax(dim=-1), dropout) @ value

    if query.shape[-2] <= QUERIES_AT_A_TIME:
        return of_some(query)
    blocks = torch.split(query, QUERIES_AT_A_TIME, dim=-2)
    attended: list[Tensor] = [checkpoint(of_some, block, use_reentrant=False) for block in blocks]
    return torch.cat(attended, dim=-2)

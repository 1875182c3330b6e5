"""The mask decoder: learned queries read the image maps through masks of their own, and end as classes and masks.

Two things differ from the published code in cost and in nothing else. Between the layers a mask only decides what a
query may look at, on a map 2, 4 or 8 times coarser than the masks: down-sampling is linear, so the mask features are
brought to that size once, instead of every mask in every layer. And the convolution that makes the mask features is
linear too: each query's mask vector is multiplied into its kernel, which leaves one output channel a query (101)
instead of one a feature (512) at the finest stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.seem.attention import Attention, FeedForward
from pipeline.seem.position import sine_position

NUM_LEVELS = 3  # maps at strides 32, 16, 8, read in turn
LEVEL_STRIDES = (8, 4, 2)  # of these maps, in cells of the finest one


class ImageMemory(NamedTuple):
    """What the queries read of a batch of images."""

    keys_values: list[tuple[Tensor, Tensor]]  # one pair a layer, each float [B, heads, h w, D / heads]
    level_features: list[Tensor]  # mask features at the size of each level, float [B, M, h w]
    finest: Tensor  # stride 4, float [B, D, H / 4, W / 4]


class MaskDecoder(nn.Module):
    """Queries to class vectors and masks (Cheng et al. 2022, with text tokens among the queries for grounding)."""

    def __init__(
        self,
        dim: int,
        mask_dim: int,
        text_dim: int,
        num_queries: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
    ):
        super().__init__()
        self.query_feat, self.query_embed = nn.Embedding(num_queries, dim), nn.Embedding(num_queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, feedforward_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.class_embed = nn.Parameter(torch.empty(dim, text_dim))
        self.mask_embed = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, mask_dim)])
        nn.init.normal_(self.class_embed, std=dim**-0.5)

    def read(self, maps: Sequence[Tensor], finest: Tensor, mask_features: nn.Conv2d) -> ImageMemory:
        """Everything that depends on the image alone, so that many prompts can be decoded from it.

        maps:          strides 32, 16, 8, each float [B, D, h, w]
        finest:        stride 4, float [B, D, H / 4, W / 4]
        mask_features: the convolution from `finest` to mask features
        """
        keys, values = zip(*(self._level_memory(level, level_map) for level, level_map in enumerate(maps)), strict=True)
        keys_values = [
            layer.cross_attention.project_keys(keys[i % NUM_LEVELS], values[i % NUM_LEVELS])
            for i, layer in enumerate(self.layers)
        ]
        features = downsampled_conv(finest, mask_features, LEVEL_STRIDES)
        return ImageMemory(keys_values, [level.flatten(2) for level in features], finest)

    def _level_memory(self, level: int, level_map: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one level before projection, float [B, h w, D] each."""
        _, dim, height, width = level_map.shape
        position = sine_position(height, width, dim, level_map.device, level_map.dtype).flatten(1).T
        values = level_map.flatten(2).transpose(1, 2) + self.level_embed.weight[level]
        return values + position, values

    def forward(self, memory: ImageMemory, tokens: Tensor | None = None) -> list[Tensor]:
        """Queries before the first layer and after each, float [B, Q, D].

        tokens: float [B, T, D] of prompts that the queries shall look for (grounding), or None. Tokens are among the
                queries in self-attention and feed-forward, but do not read the image; their position is their content.
        """
        num_queries, num_images = self.query_feat.num_embeddings, len(memory.finest)
        x = self.query_feat.weight.expand(num_images, -1, -1)
        position = self.query_embed.weight.expand(num_images, -1, -1)
        if tokens is not None:
            x, position = torch.cat([x, tokens], dim=1), torch.cat([position, tokens], dim=1)
        outputs = [x[:, :num_queries]]
        for i, layer in enumerate(self.layers):
            allowed = self.visible_places(outputs[-1], memory.level_features[i % NUM_LEVELS])
            x = layer(x, position, num_queries, *memory.keys_values[i], allowed)
            outputs.append(x[:, :num_queries])
        return outputs

    def visible_places(self, queries: Tensor, level_features: Tensor) -> Tensor:
        """bool [B, 1, Q, h w]: where a query's mask is at least 0.5; everywhere for a query whose mask is empty."""
        inside = self.mask_vectors(queries) @ level_features >= 0  # a logit of 0 is a probability of 0.5
        return (inside | ~inside.any(dim=-1, keepdim=True))[:, None]

    def class_vectors(self, queries: Tensor) -> Tensor:
        """float [B, Q, D] -> float [B, Q, P], to be compared with texts; not of unit length."""
        return self.norm(queries) @ self.class_embed

    def mask_vectors(self, queries: Tensor) -> Tensor:
        """float [B, Q, D] -> float [B, Q, M]."""
        first, second, last = self.mask_embed
        return last(F.relu(second(F.relu(first(self.norm(queries))))))

    def mask_logits(self, queries: Tensor, finest: Tensor, mask_features: nn.Conv2d) -> Tensor:
        """float [B, Q, D] -> float [B, Q, H / 4, W / 4]: mask vectors times `mask_features(finest)`."""
        vectors = self.mask_vectors(queries).float()
        with torch.autocast(vectors.device.type, enabled=False):  # a product of kernels: keep it exact
            kernels = torch.einsum("bqm,mdyx->bqdyx", vectors, mask_features.weight)
            biases = vectors @ mask_features.bias
        padding = mask_features.padding
        images = zip(finest, kernels, biases, strict=True)
        return torch.cat([F.conv2d(image[None], kernel, bias, padding=padding) for image, kernel, bias in images])


class DecoderLayer(nn.Module):
    """Masked cross-attention to the image, self-attention, feed-forward; post-norm."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int):
        super().__init__()
        self.cross_attention, self.cross_norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.self_attention, self.self_norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim)

    def forward(
        self, x: Tensor, position: Tensor, num_queries: int, keys: Tensor, values: Tensor, allowed: Tensor
    ) -> Tensor:
        """x, position: float [B, Q + T, D], of which the first `num_queries` read the image; returns the same shape."""
        queries, tokens = x[:, :num_queries], x[:, num_queries:]
        read = self.cross_attention(queries + position[:, :num_queries], keys, values, allowed)
        x = torch.cat([self.cross_norm(queries + read), tokens], dim=1)
        placed = x + position
        x = self.self_norm(x + self.self_attention(placed, *self.self_attention.project_keys(placed, x)))
        return self.feedforward(x)


def downsampled_conv(x: Tensor, conv: nn.Conv2d, strides: Sequence[int]) -> list[Tensor]:
    """What bilinear down-sampling by even strides makes of `conv(x)`, without computing `conv(x)`.

    Down-sampling by 2, 4 or 8 (no antialiasing) is the mean of the two by two cells in the middle of each block. Mean
    and convolution change places: a box filter on x, then the convolution at every `stride`-th place.

    x: float [B, D, H, W], H and W multiples of every stride; returns float [B, M, H / stride, W / stride] for each
    """
    boxes = F.avg_pool2d(x, 2, stride=1, padding=conv.padding)
    height, width = x.shape[-2:]
    return [_conv_in_the_middles(boxes, conv, stride, height // stride, width // stride) for stride in strides]


def _conv_in_the_middles(boxes: Tensor, conv: nn.Conv2d, stride: int, height: int, width: int) -> Tensor:
    """The convolution at the middle of every block of `stride` cells, float [B, M, height, width].

    Padding moves its first place to a multiple of the stride before the first middle: cutting `boxes` there would copy
    them.
    """
    middle = stride // 2 - 1
    ahead = stride if middle else 0
    padded = F.conv2d(boxes, conv.weight, conv.bias, stride=stride, padding=ahead - middle)
    first = ahead // stride
    return padded[..., first : first + height, first : first + width]

"""The mask decoder: learned queries attend to the image maps inside their own masks, and give classes and masks.

Two computations are cheaper than in the published code, with the same result. First, between the layers a mask only
decides where a query may attend, on a map 2, 4 or 8 times coarser than the masks. Down-sampling is linear, so the mask
features are down-sampled once, instead of every mask in every layer. Second, the convolution that computes the mask
features is linear, too. The mask vector of each query is multiplied into its kernel, so that at the finest stride there
is one output channel per query (101) instead of one per feature (512).
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
    """Everything that the queries need of a batch of images."""

    keys_values: list[tuple[Tensor, Tensor]]  # one pair per layer, each float [B, heads, h w, D / heads]
    level_features: list[Tensor]  # mask features at the size of each level, float [B, M, h w]
    finest: Tensor  # stride 4, float [B, D, H / 4, W / 4]


class MaskDecoder(nn.Module):
    """Decodes queries to class vectors and masks (Cheng et al. 2022; for grounding with text tokens as queries)."""

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
        """Compute everything that depends only on the image, so that many prompts can be decoded from it.

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

        tokens: float [B, T, D], tokens of the prompts (grounding), or None. Tokens take part in self-attention and
                feed-forward like queries, but do not attend to the image. Their position encoding is the token itself.
        """
        num_queries, num_images = self.query_feat.num_embeddings, len(memory.finest)
        x = self.query_feat.weight.expand(num_images, -1, -1)
        position = self.query_embed.weight.expand(num_images, -1, -1)
        if tokens is not None:
            x, position = torch.cat([x, tokens], dim=1), torch.cat([position, tokens], dim=1)
        outputs = [x[:, :num_queries]]
        for i, layer in enumerate(self.layers):
            allowed = self.visible_cells(outputs[-1], memory.level_features[i % NUM_LEVELS])
            x = layer(x, position, num_queries, *memory.keys_values[i], allowed)
            outputs.append(x[:, :num_queries])
        return outputs

    def visible_cells(self, queries: Tensor, level_features: Tensor) -> Tensor:
        """bool [B, 1, Q, h w]: True where the mask of a query is at least 0.5; everywhere True if the mask is empty."""
        inside = self.mask_vectors(queries) @ level_features >= 0  # a logit of 0 is a probability of 0.5
        return (inside | ~inside.any(dim=-1, keepdim=True))[:, None]

    def class_vectors(self, queries: Tensor) -> Tensor:
        """Class vectors, which are compared with texts: float [B, Q, D] -> float [B, Q, P], not of unit length."""
        return self.norm(queries) @ self.class_embed

    def mask_vectors(self, queries: Tensor) -> Tensor:
        """Mask vectors of queries: float [B, Q, D] -> float [B, Q, M]."""
        first, second, last = self.mask_embed
        return last(F.relu(second(F.relu(first(self.norm(queries))))))

    def mask_logits(self, queries: Tensor, finest: Tensor, mask_features: nn.Conv2d) -> Tensor:
        """float [B, Q, D] -> float [B, Q, H / 4, W / 4]: mask vectors times `mask_features(finest)`."""
        vectors = self.mask_vectors(queries).float()
        with torch.autocast(vectors.device.type, enabled=False):  # exact, because this is a product of kernels
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
        """One layer: float [B, Q + T, D] -> the same shape.

        position:     float [B, Q + T, D], position encodings
        num_queries:  Q; only these attend to the image
        keys, values: float [B, heads, h w, D / heads]
        allowed:      bool [B, 1, Q, h w], see `visible_cells`
        """
        queries, tokens = x[:, :num_queries], x[:, num_queries:]
        attended = self.cross_attention(queries + position[:, :num_queries], keys, values, allowed)
        x = torch.cat([self.cross_norm(queries + attended), tokens], dim=1)
        with_position = x + position
        x = self.self_norm(x + self.self_attention(with_position, *self.self_attention.project_keys(with_position, x)))
        return self.feedforward(x)


def downsampled_conv(x: Tensor, conv: nn.Conv2d, strides: Sequence[int]) -> list[Tensor]:
    """Bilinear down-sampling of `conv(x)` by even strides, without computing `conv(x)`.

    Down-sampling by 2, 4 or 8 (no antialiasing) is the mean of the two by two cells in the middle of each block. The
    mean and the convolution can be exchanged: a box filter on x, then the convolution at every `stride`-th cell.

    x:       float [B, D, H, W], H and W multiples of every stride
    returns: float [B, M, H / stride, W / stride] for each stride
    """
    boxes = F.avg_pool2d(x, 2, stride=1, padding=conv.padding)
    height, width = x.shape[-2:]
    return [_conv_in_the_middles(boxes, conv, stride, height // stride, width // stride) for stride in strides]


def _conv_in_the_middles(boxes: Tensor, conv: nn.Conv2d, stride: int, height: int, width: int) -> Tensor:
    """The convolution at the middle of every block of `stride` cells, float [B, M, height, width].

    The padding moves the first cell of the convolution to a multiple of the stride before the first middle. Cutting
    `boxes` instead would copy them.
    """
    middle = stride // 2 - 1
    ahead = stride if middle else 0
    padded = F.conv2d(boxes, conv.weight, conv.bias, stride=stride, padding=ahead - middle)
    first = ahead // stride
    return padded[..., first : first + height, first : first + width]

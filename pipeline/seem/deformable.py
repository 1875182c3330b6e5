"""The pixel decoder of the SAM variants: deformable attention among the tokens of three maps.

Source: Deformable DETR (Zhu et al. 2021) for the attention, Mask2Former (Cheng et al. 2022) for its use here.
Parameters are named as in the published `seem_samvit*.pt`. Two more letters for axes: T token, counted over all levels
from coarse to fine; P point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.seem.fpn import NormedConv
from pipeline.seem.position import sine_position

NUM_LEVELS = 3  # strides 32, 16, 8

Sizes = Sequence[tuple[int, int]]  # height and width of every level


class DeformablePixelDecoder(nn.Module):
    """Computes three maps for the queries, and the finest map for the masks, from the maps of the backbone.

    in_channels:     channels of res2..res5
    conv_dim:        channels D of all output maps; a multiple of 4, `num_heads` and `num_groups`
    mask_dim:        channels of the mask features
    num_layers:      deformable transformer layers
    num_heads:       attention heads
    feedforward_dim: hidden channels of the feed-forward blocks
    num_points:      points that a head samples on each level
    num_groups:      groups of the group norms
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        conv_dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
        num_points: int = 4,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        finest, *deeper = in_channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, conv_dim, 1), nn.GroupNorm(num_groups, conv_dim))
            for channels in reversed(deeper)
        )
        self.transformer = DeformableTransformer(num_layers, conv_dim, num_heads, num_points, feedforward_dim)
        self.adapter_1 = NormedConv(finest, conv_dim, 1, num_groups)
        self.layer_1 = NormedConv(conv_dim, conv_dim, 3, num_groups)
        self.mask_features = nn.Conv2d(conv_dim, mask_dim, 1)  # applied by the mask decoder

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Maps from coarse to fine. They are computed in float32: half precision makes sampling points inexact.

        features: res2..res5, float [B, in_channels, h, w] at strides 4, 8, 16, 32
        returns:  three maps float32 [B, D, h, w] at strides 32, 16 and 8; the map at stride 4, before `mask_features`
        """
        with torch.autocast(features[0].device.type, enabled=False):
            finest, *deeper = (feature.float() for feature in features)
            maps = [project(feature) for project, feature in zip(self.input_proj, reversed(deeper), strict=True)]
            maps = self.transformer(maps)
            lateral = self.adapter_1(finest)
            finer = F.interpolate(maps[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return maps, F.relu(self.layer_1(lateral + finer))


class DeformableTransformer(nn.Module):
    """A stack of deformable layers over the tokens of several maps."""

    def __init__(self, num_layers: int, dim: int, num_heads: int, num_points: int, feedforward_dim: int) -> None:
        super().__init__()
        layers = (DeformableLayer(dim, num_heads, num_points, feedforward_dim) for _ in range(num_layers))
        self.level_embed = nn.Parameter(torch.zeros(NUM_LEVELS, dim))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps float [B, D, h, w] from coarse to fine -> maps of the same shapes."""
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        tokens = torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)  # [B, T, D]
        positions, centres = self._positions(sizes, tokens), pixel_centres(sizes, tokens)
        for layer in self.encoder["layers"]:
            tokens = layer(tokens, positions, centres, sizes)
        levels = tokens.transpose(1, 2).split([height * width for height, width in sizes], dim=2)
        return [level.unflatten(2, size) for level, size in zip(levels, sizes, strict=True)]

    def _positions(self, sizes: Sizes, like: Tensor) -> Tensor:
        """Encoding of the position and the level of each token, float [T, D], with device and dtype of `like`."""
        codes = [
            sine_position(*size, like.shape[-1], like.device, like.dtype).flatten(1).T + level
            for size, level in zip(sizes, self.level_embed, strict=True)
        ]
        return torch.cat(codes)


class DeformableLayer(nn.Module):
    """A post-norm transformer layer with deformable attention."""

    def __init__(self, dim: int, num_heads: int, num_points: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(dim, num_heads, NUM_LEVELS, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, positions: Tensor, centres: Tensor, sizes: Sizes) -> Tensor:
        """tokens: float [B, T, D]; positions: float [T, D]; centres: see `pixel_centres`; returns float [B, T, D]."""
        tokens = self.norm1(tokens + self.self_attn(tokens + positions, tokens, centres, sizes))
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))


class DeformableAttention(nn.Module):
    """Attention to a few points per head and level. Their offsets, in pixels of the level, depend on the query."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor, centres: Tensor, sizes: Sizes) -> Tensor:
        """Weighted sums of the values around the centre of each query, over all levels.

        queries: float [B, T, D]
        tokens:  float [B, T, D], the tokens of all levels
        centres: float [T, 2], x and y of the queries as fractions of width and height
        sizes:   heights and widths of the levels, T tokens in total
        returns: float [B, T, D]
        """
        values = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))  # [B, T, heads, D / heads]
        levels = values.split([height * width for height, width in sizes], dim=1)
        offsets, weights = self._offsets(queries), self._weights(queries)
        samples = [
            _sample(level, size, centres + offset / offset.new_tensor(size[::-1]), weight)
            for level, size, offset, weight in zip(levels, sizes, offsets, weights, strict=True)
        ]
        return self.output_proj(sum(samples[1:], start=samples[0]))

    def _offsets(self, queries: Tensor) -> Tensor:
        """Offsets of the points, float [levels, B, heads, P, T, 2], x and y in pixels."""
        shape = self.num_heads, self.num_levels, self.num_points, 2
        return self.sampling_offsets(queries).unflatten(-1, shape).permute(3, 0, 2, 4, 1, 5)

    def _weights(self, queries: Tensor) -> Tensor:
        """Weights of the points, float [levels, B, heads, P, T], positive; their sum over levels and points is 1."""
        scores = self.attention_weights(queries).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        return scores.unflatten(-1, (self.num_levels, self.num_points)).permute(3, 0, 2, 4, 1)


def pixel_centres(sizes: Sizes, like: Tensor) -> Tensor:
    """Centre of every token, float [T, 2]: x and y as fractions of the width and height of its level."""
    levels = []
    for height, width in sizes:
        rows = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        columns = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        levels.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(levels)


def _sample(values: Tensor, size: tuple[int, int], points: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples from one level. Values outside the map are zero.

    values:  float [B, h * w, heads, D / heads]
    size:    h, w
    points:  float [B, heads, P, T, 2], x and y as fractions of w and h
    weights: float [B, heads, P, T]
    returns: float [B, T, D]
    """
    batch, num_heads = weights.shape[:2]
    maps = values.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, size)  # [B * heads, D / heads, h, w]
    grid = 2 * points.flatten(0, 1) - 1  # coordinates of grid_sample are in [-1, 1]
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    sums = (samples * weights.flatten(0, 1)[:, None]).sum(2)  # [B * heads, D / heads, T]
    return sums.unflatten(0, (batch, num_heads)).flatten(1, 2).transpose(1, 2)

"""The pixel decoder of the Focal variants: a transformer on the coarsest map, then a feature pyramid upwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.seem.attention import Attention, FeedForward
from pipeline.seem.position import sine_position


class FpnPixelDecoder(nn.Module):
    """Computes three maps for the queries, and the finest map for the masks, from the maps of the backbone.

    Arguments as of `DeformablePixelDecoder`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        conv_dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
        num_groups: int,
    ):
        super().__init__()
        *lateral, coarsest = in_channels
        self.input_proj = nn.Conv2d(coarsest, conv_dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(conv_dim, num_heads, feedforward_dim) for _ in range(num_layers))
        for number, channels in enumerate(lateral, start=1):  # 1 is for res2, 3 for res4
            self.add_module(f"adapter_{number}", NormedConv(channels, conv_dim, 1, num_groups))
            self.add_module(f"layer_{number}", NormedConv(conv_dim, conv_dim, 3, num_groups))
        self.layer_4 = NormedConv(conv_dim, conv_dim, 3, num_groups)
        self.mask_features = nn.Conv2d(conv_dim, mask_dim, 3, padding=1)  # applied by the mask decoder

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """res2..res5 -> the maps at strides 32, 16 and 8, and the finest at stride 4, each float [B, D, h, w]."""
        y = F.relu(self.layer_4(self.encode(features[-1])))
        maps = [y]
        for number in (3, 2, 1):
            lateral = getattr(self, f"adapter_{number}")(features[number - 1])
            # In place, because a copy of the finest map costs as much as a layer. Nearest doubles the sizes exactly.
            lateral += F.interpolate(y, size=lateral.shape[-2:], mode="nearest")
            y = F.relu(getattr(self, f"layer_{number}")(lateral), inplace=True)
            maps.append(y)
        return maps[:3], maps[3]

    def encode(self, coarsest: Tensor) -> Tensor:
        """Self-attention over the coarsest map: res5, float [B, C, h, w] -> float [B, D, h, w]."""
        x = self.input_proj(coarsest)
        height, width = x.shape[-2:]
        position = sine_position(height, width, x.shape[1], x.device, x.dtype).flatten(1).T  # [L, D]
        tokens = x.flatten(2).transpose(1, 2)  # [B, L, D]
        for layer in self.encoder:
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).unflatten(2, (height, width))


class EncoderLayer(nn.Module):
    """Post-norm transformer layer. Queries and keys include the position encoding."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int):
        super().__init__()
        self.attention, self.norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """tokens float [B, L, D], position float [L, D] -> float [B, L, D]."""
        with_position = tokens + position
        keys, values = self.attention.project_keys(with_position, tokens)
        return self.feedforward(self.norm(tokens + self.attention(with_position, keys, values)))


class NormedConv(nn.Conv2d):
    """Convolution without bias, then GroupNorm."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, num_groups: int):
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(num_groups, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))

"""FocalNet, the backbone of SEEM's Focal-T (`focal_dw`) and Focal-L (`focal`).

The two differ in the block and in the padding of the stem. Focal modulation is the same (Yang et al. 2022). Features
are stored as [B, H, W, C]: linear layers and norms need channels last, and a depthwise convolution accepts the permuted
view without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MLP_RATIO = 4


class FocalBackbone(nn.Module):
    """Computes feature maps of images at strides 4, 8, 16 and 32."""

    def __init__(self, width: int, depths: Sequence[int], focal_levels: Sequence[int], depthwise_residuals: bool):
        super().__init__()
        # The stem of Focal-T has one more pixel of padding; both give H/4 x W/4.
        self.patch_embed = Downsample(3, width, kernel=7, stride=4, padding=3 if depthwise_residuals else 2)
        self.layers = nn.ModuleList()
        for stage, (depth, levels) in enumerate(zip(depths, focal_levels, strict=True)):
            is_last = stage == len(depths) - 1
            self.layers.append(Stage(width << stage, depth, levels, depthwise_residuals, downsample=not is_last))
            self.add_module(f"norm{stage}", nn.LayerNorm(width << stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        """float [B, 3, H, W], H and W multiples of 32 -> res2..res5, each float [B, C, h, w]."""
        x = self.patch_embed(images)
        maps = []
        for stage, layer in enumerate(self.layers):
            x = layer.run_blocks(x)
            maps.append(_channels_first(getattr(self, f"norm{stage}")(x)))
            if layer.downsample is not None:
                x = layer.downsample(_channels_first(x))
        return maps


class Downsample(nn.Module):
    """Strided convolution and LayerNorm: float [B, C, H, W] -> [B, h, w, C']."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = nn.Conv2d(width_in, width_out, kernel, stride, padding)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(_channels_last(self.proj(x)))


class Stage(nn.Module):
    """Blocks of the same width, followed by the down-sampling to the next stage."""

    def __init__(self, width: int, depth: int, levels: int, depthwise_residuals: bool, downsample: bool):
        super().__init__()
        block = DepthwiseFocalBlock if depthwise_residuals else FocalBlock
        self.blocks = nn.ModuleList(block(width, levels) for _ in range(depth))
        self.downsample = Downsample(width, 2 * width, kernel=3, stride=2, padding=1) if downsample else None

    def run_blocks(self, x: Tensor) -> Tensor:
        """float [B, H, W, C] -> the same shape, before down-sampling."""
        for block in self.blocks:
            x = block(x)
        return x


class FocalBlock(nn.Module):
    """The block of Focal-L: the norms are on the branches."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.ones(width))
        self.gamma_2 = nn.Parameter(torch.ones(width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.modulation = FocalModulation(width, levels)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, H, W, C] -> the same shape."""
        x = torch.addcmul(x, self.norm1(self.modulation(x)), self.gamma_1)
        return torch.addcmul(x, self.norm2(self.mlp(x)), self.gamma_2)


class DepthwiseFocalBlock(FocalBlock):
    """The block of Focal-T: depthwise convolutions before each branch, and the norms are on the sums."""

    def __init__(self, width: int, levels: int):
        super().__init__(width, levels)
        self.dw1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.dw2 = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, H, W, C] -> the same shape."""
        x = x + _convolve(self.dw1, x)
        x = self.norm1(torch.addcmul(x, self.modulation(x), self.gamma_1))
        x = x + _convolve(self.dw2, x)
        return self.norm2(torch.addcmul(x, self.mlp(x), self.gamma_2))


class FocalModulation(nn.Module):
    """Multiplies the query of every pixel by a gated sum of contexts of increasing size."""

    def __init__(self, width: int, levels: int):
        super().__init__()
        self.width, self.levels = width, levels
        self.f = nn.Linear(width, 2 * width + levels + 1)  # query, context, one gate per level, and one global gate
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False), nn.GELU())
            for kernel in (3 + 2 * level for level in range(levels))
        )
        self.h = nn.Conv2d(width, width, 1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, H, W, C] -> the same shape."""
        # Three products instead of a single one that is split, because the convolutions would copy a slice of it.
        sizes = [self.width, self.width, self.levels + 1]
        projections = zip(self.f.weight.split(sizes), self.f.bias.split(sizes), strict=True)
        query, context, gates = (F.linear(x, weight, bias) for weight, bias in projections)
        *level_gates, global_gate = (gates / (self.levels + 1)).split(1, dim=-1)
        total = torch.zeros_like(context)
        for layer, gate in zip(self.focal_layers, level_gates, strict=True):
            context = _convolve(layer, context)
            total = torch.addcmul(total, context, gate)
        global_context = F.gelu(context.mean(dim=(1, 2), keepdim=True))
        total = torch.addcmul(total, global_context, global_gate)
        return self.proj(query * _convolve(self.h, total))


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _convolve(layer: nn.Module, x: Tensor) -> Tensor:
    return _channels_last(layer(_channels_first(x)))


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)

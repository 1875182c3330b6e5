"""EfficientNet-Lite0 with a feature pyramid, as one writes it down: what `train_step.py` measures our student against.

The same layers and numbers of channels as `train.students.efficientnet`, in the form of the public PyTorch port:
zero-padding as a layer of its own, batch norm, ReLU6, drop path and sum one after the other, maps as NCHW.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM, HEAD, DROP_PATH, DROPOUT = 32, 96, 0.1, 0.1
GROUPS = [  # blocks, kernel, stride, expansion, width
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
LEVELS = (1, 2, 4, 6)  # groups whose maps the pyramid takes: strides 4 to 32
NUM_BLOCKS = sum(group[0] for group in GROUPS)


class Output(NamedTuple):
    """As transformers' models answer."""

    logits: Tensor


class SamePad(nn.Module):
    """Zeros as TensorFlow's SAME."""

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads) if any(pads) else x


def conv_norm(width: int, out_width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width, out_width, kernel, stride, groups=groups, bias=False)
    return [SamePad(kernel, stride), conv, nn.BatchNorm2d(out_width, momentum=0.01, eps=1e-3)]


class Block(nn.Module):
    def __init__(self, width: int, out_width: int, kernel: int, stride: int, expansion: int, drop_path: float):
        super().__init__()
        hidden = width * expansion
        layers = [*conv_norm(width, hidden), nn.ReLU6()] if expansion > 1 else []
        layers += [*conv_norm(hidden, hidden, kernel, stride, hidden), nn.ReLU6(), *conv_norm(hidden, out_width)]
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and width == out_width
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        branch = self.layers(x)
        if not self.is_residual:
            return branch
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            branch = branch / keep * torch.floor(keep + torch.rand((len(x), 1, 1, 1), device=x.device))
        return x + branch


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, STEM, 3, 2), nn.ReLU6())
        self.groups = nn.ModuleList()
        width, place = STEM, 0
        for num_blocks, kernel, stride, expansion, out_width in GROUPS:
            blocks = []
            for index in range(num_blocks):
                drop_path = DROP_PATH * place / (NUM_BLOCKS - 1)
                blocks.append(Block(width, out_width, kernel, stride if index == 0 else 1, expansion, drop_path))
                width, place = out_width, place + 1
            self.groups.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for group in self.groups:
            x = group(x)
            maps.append(x)
        return [maps[level] for level in LEVELS]


class Pyramid(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        widths = [GROUPS[level][-1] for level in LEVELS]
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, HEAD, 1, bias=False), nn.BatchNorm2d(HEAD)) for width in widths
        )
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(HEAD, HEAD, 3, padding=1, groups=HEAD, bias=False),
                nn.Conv2d(HEAD, HEAD, 1, bias=False),
                nn.BatchNorm2d(HEAD),
                nn.ReLU(),
            )
            for _ in widths
        )
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(HEAD, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        fused = None
        for map_, lateral, smooth in zip(reversed(maps), reversed(self.lateral), reversed(self.smooth), strict=True):
            level = lateral(map_)
            if fused is not None:
                level = level + functional.interpolate(fused, level.shape[-2:], mode="bilinear", align_corners=False)
            fused = smooth(level)
        return self.classifier(self.dropout(fused))


class PlainEfficientNet(nn.Module):
    """Called like transformers' models."""

    base_model_prefix = "encoder"

    def __init__(self, num_classes: int):
        super().__init__()
        self.encoder = Encoder()
        self.decode_head = Pyramid(num_classes)

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(self.decode_head(self.encoder(pixel_values)))

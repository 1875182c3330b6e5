"""A plain EfficientNet-Lite0 with a feature pyramid, with which `train_step.py` compares our student.

The same layers and numbers of channels as `train.students.efficientnet`, in the form of the public PyTorch port:
zero-padding as a separate layer, batch norm, ReLU6 and sum one after the other, feature maps as NCHW.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

STEM, HEAD, DROPOUT = 32, 96, 0.1
GROUPS = [  # blocks, kernel, stride, expansion, width
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
LEVELS = (2, 4, 6)  # groups whose maps the pyramid reads: strides 8, 16 and 32


class Output(NamedTuple):
    """Output in the form of transformers' models."""

    logits: Tensor


class SamePad(nn.Module):
    """Zero-padding as TensorFlow's SAME."""

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
    def __init__(self, width: int, out_width: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = width * expansion
        layers = [*conv_norm(width, hidden), nn.ReLU6()] if expansion > 1 else []
        layers += [*conv_norm(hidden, hidden, kernel, stride, hidden), nn.ReLU6(), *conv_norm(hidden, out_width)]
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and width == out_width

    def forward(self, x: Tensor) -> Tensor:
        branch = self.layers(x)
        return x + branch if self.is_residual else branch


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, STEM, 3, 2), nn.ReLU6())
        self.groups = nn.ModuleList()
        width = STEM
        for num_blocks, kernel, stride, expansion, out_width in GROUPS:
            blocks = []
            for index in range(num_blocks):
                blocks.append(Block(width, out_width, kernel, stride if index == 0 else 1, expansion))
                width = out_width
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
    """The network, with the interface of transformers' models."""

    base_model_prefix = "encoder"

    def __init__(self, num_classes: int):
        super().__init__()
        self.encoder = Encoder()
        self.decode_head = Pyramid(num_classes)

    def forward(self, pixel_values: Tensor) -> Output:
        return Output(self.decode_head(self.encoder(pixel_values)))

"""The decode head that is trained on cached features: a light feature pyramid with logits at stride 8."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from train.losses import upsampled

WIDTH = 64
DROPOUT = 0.1


class PyramidDecoder(nn.Module):
    """A feature pyramid with `WIDTH` channels: each level adds the next coarser one, and the finest is classified.

    widths: channels of the levels, finest first
    """

    def __init__(self, widths: Sequence[int], num_classes: int):
        super().__init__()
        self.lateral = nn.ModuleList(_projection(width) for width in widths)
        self.smooth = nn.ModuleList(_smoothing() for _ in widths)
        self.classifier = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(WIDTH, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, float [B, D, h, w] each, finest first -> logits of the finest size, float [B, K, h, w]."""
        fused: Tensor | None = None
        levels = list(zip(features, self.lateral, self.smooth, strict=True))
        for feature, lateral, smooth in reversed(levels):
            level = lateral(feature)
            fused = smooth(level if fused is None else level + upsampled(fused, level.shape[-2:]))
        logits: Tensor = self.classifier(fused)
        return logits


def _projection(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))


def _smoothing() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False),
        nn.Conv2d(WIDTH, WIDTH, 1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(inplace=True),
    )

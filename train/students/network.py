"""What every student network offers: images in, feature maps, coarse logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """A semantic segmentation network made of an encoder and a decode head."""

    multiple: int = 1
    """The sides of the input are multiples of this, pixels."""
    smallest_side: int = 32
    """Of the input, pixels."""
    mean: Sequence[float] = MEAN
    """Of RGB in [0, 1], three numbers: what the pixels are normalised by."""
    std: Sequence[float] = STD
    memory_format: torch.memory_format = torch.contiguous_format
    """Of the weights: what is fastest for this network."""

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """float [B, 3, H, W], normalised -> feature maps, float [B, D, h, w] each, finest first."""
        raise NotImplementedError

    def decode(self, features: list[Tensor]) -> Tensor:
        """Feature maps as `encode` returns them -> logits, float [B, K, h, w], coarser than the input."""
        raise NotImplementedError

    def feature_widths(self) -> list[int]:
        """Channels D of each feature map."""
        raise NotImplementedError

    def is_head(self, parameter_name: str) -> bool:
        """Whether a parameter of that name belongs to the decode head."""
        raise NotImplementedError

    def encoder_stages(self) -> list[nn.Module]:
        """Parts of the encoder that can be frozen, the first that sees the image first; none if they are not known."""
        return []

    def freeze_unused(self) -> None:
        """Ask no gradient for parameters that play no part: processes that share a batch would wait for it."""

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, from which transformers makes the same network."""
        raise NotImplementedError

    def forward(self, pixels: Tensor, channel_masks: Sequence[Tensor] | None = None) -> Tensor:
        """float [B, 3, H, W], normalised -> logits, float [B, K, h, w].

        channel_masks: float [B, D, 1, 1] for each feature map, multiplied onto it
        """
        features = self.encode(pixels)
        if channel_masks is not None:
            features = [map_ * mask.to(map_.dtype) for map_, mask in zip(features, channel_masks, strict=True)]
        return self.decode(features)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())

"""The interface of all student networks: images in; feature maps and coarse logits out."""

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
    """Height and width of the input must be multiples of this, in pixels."""
    smallest_side: int = 32
    """Smallest height and width of the input, in pixels."""
    mean: Sequence[float] = MEAN
    """Mean of the pixels, three numbers for RGB in [0, 1]; pixels are normalised by it and `std`."""
    std: Sequence[float] = STD
    """Standard deviation of the pixels, three numbers for RGB in [0, 1]."""
    memory_format: torch.memory_format = torch.contiguous_format
    """Memory format of the weights that is fastest for this network."""

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels, float [B, 3, H, W] -> feature maps, float [B, D, h, w] each, finest first."""
        raise NotImplementedError

    def decode(self, features: list[Tensor]) -> Tensor:
        """Feature maps as `encode` returns them -> logits, float [B, K, h, w], coarser than the input."""
        raise NotImplementedError

    def feature_widths(self) -> list[int]:
        """Number of channels D of each feature map."""
        raise NotImplementedError

    def is_head(self, parameter_name: str) -> bool:
        """Whether the parameter of that name belongs to the decode head."""
        raise NotImplementedError

    def encoder_stages(self) -> list[nn.Module]:
        """The stages of the encoder that can be frozen, from the input on; empty if they are unknown."""
        return []

    def freeze_unused(self) -> None:
        """Freeze parameters that the logits do not depend on; several processes would wait for their gradients."""

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, which transformers can load."""
        raise NotImplementedError

    def forward(self, pixels: Tensor, channel_masks: Sequence[Tensor] | None = None) -> Tensor:
        """Normalised pixels, float [B, 3, H, W] -> logits, float [B, K, h, w].

        channel_masks: float [B, D, 1, 1] per feature map, which is multiplied by it
        """
        features = self.encode(pixels)
        if channel_masks is not None:
            features = [map_ * mask.to(map_.dtype) for map_, mask in zip(features, channel_masks, strict=True)]
        return self.decode(features)


def num_parameters(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())

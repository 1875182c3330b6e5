"""Any semantic segmentation network of transformers as a student."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import TrainingError, first_line
from train.students.drop import share_draws
from train.students.network import Network
from train.students.norm import share_statistics

ENCODERS = ("backbone", "encoder")  # attributes that can hold the encoder of a network without a base model prefix


class AnyNetwork(Network):
    """A network whose structure is unknown: it only maps images to logits."""

    multiple = 32
    smallest_side = 64

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        patch = getattr(model.config, "patch_size", None)
        if isinstance(patch, int) and self.multiple % patch:
            self.multiple = patch
        share_draws(model)
        share_statistics(model)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        raise self._is_whole()

    def decode(self, features: list[Tensor]) -> Tensor:
        raise self._is_whole()

    def feature_widths(self) -> list[int]:
        raise self._is_whole()

    def _is_whole(self) -> TrainingError:
        return TrainingError(
            f"the student {type(self.model).__name__} has no known encoder with feature maps; set "
            "stage2.complementary_dropout: false and train.framework: plain, or take a SegFormer or DINO student"
        )

    def is_head(self, parameter_name: str) -> bool:
        """Whether a parameter is outside the encoder; False for all if the encoder is unknown."""
        encoders = [name for name in (self.model.base_model_prefix, *ENCODERS) if name and hasattr(self.model, name)]
        return bool(encoders) and not parameter_name.startswith(f"model.{encoders[0]}.")

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)

    def forward(self, pixels: Tensor, channel_masks: object = None) -> Tensor:
        if channel_masks is not None:
            raise self._is_whole()
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


def tried(network: AnyNetwork, num_classes: int | None) -> AnyNetwork:
    """Try a network on an image that is not square, and freeze the parameters that its logits do not depend on.

    raises: TrainingError if it cannot segment images of any size, or has another number of classes
    """
    name = type(network.model).__name__
    sides = [_multiple_of(network, least) for least in (network.smallest_side, 2 * network.smallest_side)]
    network.eval()
    try:
        logits = network(torch.zeros(1, 3, *sides))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{name} cannot segment an image of {sides[0]} x {sides[1]} pixels ({first_line(error)}), but a student "
            "must take images of any size; set train.student to another network"
        ) from None
    if logits.ndim != 4 or logits.shape[1] != num_classes:
        raise TrainingError(
            f"{name} gives logits of shape {list(logits.shape)}, expected [1, {num_classes}, h, w]; set train.student "
            "to another network"
        )
    logits.sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None
    return network.train()


def _multiple_of(network: Network, least: int) -> int:
    """The smallest side that the network accepts and that is at least `least` pixels."""
    return -(-least // network.multiple) * network.multiple

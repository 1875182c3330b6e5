"""A student with AllSpark's block between encoder and head, and with the semantic memory that the block attends to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.students.allspark.decoder import AllSparkBlock
from train.students.allspark.memory import SemanticMemory, channel_groups
from train.students.files import BLOCK_FILE
from train.students.network import Network


class Grouping(NamedTuple):
    """What a training pass needs about its batch, in which labeled images come first."""

    num_labeled: int
    logits: Tensor  # float [B, K, h, w] of the unlabeled images, by which their channels are assigned to classes
    uses_memory: bool


class AllSparkNetwork(Network):
    """Any of our students, with AllSpark's block on its last feature map.

    crop: side of the training images in pixels, which determines the size of the memory
    """

    def __init__(self, network: Network, num_classes: int, crop: int):
        super().__init__()
        self.network = network
        self.multiple, self.smallest_side = network.multiple, network.smallest_side
        self.mean, self.std, self.memory_format = network.mean, network.std, network.memory_format
        width = network.feature_widths()[-1]
        self.block = AllSparkBlock(width)
        self.memory = SemanticMemory(num_classes, width, num_map_pixels(network, crop))

    def forward(
        self, pixels: Tensor, channel_masks: Sequence[Tensor] | None = None, grouping: Grouping | None = None
    ) -> Tensor:
        """Normalised pixels, float [B, 3, H, W] -> logits, float [B, K, h, w]. grouping: for training passes"""
        assert channel_masks is None, "complementary dropout excludes AllSpark"
        *others, last = self.network.encode(pixels)
        if not self.training or grouping is None:
            return self.network.decode([*others, self.block(last)])
        logits = grouping.logits

        def remember(channels: Tensor) -> None:
            self.memory.enqueue(channels.flatten(2), channel_groups(logits, channels))

        memory = self.memory.content() if grouping.uses_memory else None
        return self.network.decode([*others, self.block(last, grouping.num_labeled, memory, remember)])

    def feature_widths(self) -> list[int]:
        return self.network.feature_widths()

    def encoder_stages(self) -> list[nn.Module]:
        return self.network.encoder_stages()

    def is_head(self, parameter_name: str) -> bool:
        """Whether a parameter has the learning rate of the head; those of the block do."""
        name = parameter_name.removeprefix("network.")
        return name == parameter_name or self.network.is_head(name)

    def save(self, folder: Path) -> None:
        """Save the network without the block, and the block in a file of its own."""
        self.network.save(folder)
        save_file(self.block.state_dict(), folder / BLOCK_FILE)


@torch.no_grad()
def num_map_pixels(network: Network, crop: int) -> int:
    """Number of pixels of the last feature map of a crop, which is the length of the memory's vectors."""
    return network.encode(torch.zeros(1, 3, crop, crop))[-1][0, 0].numel()


def with_saved_block(network: Network, block: Path, num_classes: int) -> AllSparkNetwork:
    """A network with the block of a file that `AllSparkNetwork.save` wrote, and with an empty memory."""
    with_block = AllSparkNetwork(network, num_classes, crop=network.smallest_side)
    with_block.block.load_state_dict(load_file(block))
    return with_block

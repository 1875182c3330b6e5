"""AllSpark's class-wise memory of channels, and the assignment of channels to classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.machine.processes import gathered
from train.students.allspark.decoder import Memory, precise


class SemanticMemory(nn.Module):
    """For each class a queue of the last C unlabeled channels (first in, first out); the same in every process.

    It has buffers only, which belong to the state of training. The number N of pixels of the feature map is fixed.
    """

    vectors: Tensor  # float [K, C, N], one per slot
    is_filled: Tensor  # bool [K, C], whether a slot holds a channel
    pointer: Tensor  # int64 [K], slot of the next channel of the class

    def __init__(self, num_classes: int, num_channels: int, num_tokens: int):
        super().__init__()
        shape = (num_classes, num_channels, num_tokens)
        self.register_buffer("vectors", torch.zeros(shape))
        self.register_buffer("is_filled", torch.zeros(shape[:2], dtype=torch.bool))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))

    def content(self) -> Memory:
        """The vectors and which of them are filled, for AllSparkBlock."""
        return self.vectors, self.is_filled

    @torch.no_grad()
    def enqueue(self, features: Tensor, groups: Tensor) -> None:
        """Append channels to the queues of their classes, image by image, with the images of all processes by rank.

        All shapes are fixed, so the host does not wait for the device.

        features: float [B, C, N] of unlabeled images; B must be the same in every process
        groups:   int64 [B, C], class of each channel, -1 for no class
        """
        channels = gathered(features.to(self.vectors.dtype)).flatten(0, 1)  # [T, N]
        classes = gathered(groups).flatten()  # [T]
        slot, writer = self._slots(classes)
        # Several channels can have the same slot, and those without a class have slot 0. All of them write the final
        # content of the slot, so the order of the writes does not matter.
        slots, winner = self.vectors.view(len(writer), -1), writer[slot]
        slots[slot] = torch.where(winner[:, None] >= 0, channels[winner.clamp(min=0)], slots[slot])
        self.is_filled.logical_or_((writer >= 0).view_as(self.is_filled))
        self.pointer.add_(_is_of(classes, len(self.pointer)).sum(dim=0)).remainder_(self.is_filled.shape[1])

    def _slots(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The slot of each new channel, and the channel that each slot holds in the end.

        classes: int64 [T], class of each channel, -1 for no class
        returns: int64 [T], and int64 [K C], -1 for a slot without a new channel
        """
        num_classes, num_slots = self.is_filled.shape
        is_of, of = _is_of(classes, num_classes), classes.clamp(min=0)
        rank = is_of.cumsum(dim=0).gather(1, of[:, None])[:, 0] - 1  # among the new channels of its class
        is_kept = (classes >= 0) & (rank >= is_of.sum(dim=0)[of] - num_slots)  # not overwritten in this call
        slot = of * num_slots + (self.pointer[of] + rank) % num_slots
        nowhere = num_classes * num_slots
        writers = torch.full((nowhere + 1,), -1, device=classes.device)
        numbers = torch.arange(len(classes), device=classes.device)
        writers.scatter_(0, torch.where(is_kept, slot, nowhere), numbers)
        return slot.where(classes >= 0, 0), writers[:-1]


def _is_of(classes: Tensor, num_classes: int) -> Tensor:
    """Whether each channel is of each class, bool [T, K]; not by `one_hot`, for which the host waits."""
    return classes[:, None] == torch.arange(num_classes, device=classes.device)


@torch.no_grad()
def channel_groups(logits: Tensor, features: Tensor) -> Tensor:
    """The class of each channel: the one whose map of logits has the largest cosine with the channel, over the pixels.

    logits:   float [B, K, H', W'] of any size; resized to that of the features
    features: float [B, C, H, W]
    returns:  int64 [B, C], class index
    """
    small = functional.interpolate(precise(logits), features.shape[-2:], mode="bilinear", align_corners=False)
    classes, channels = (functional.normalize(precise(maps).flatten(2), dim=-1) for maps in (small, features))
    with torch.autocast(features.device.type, enabled=False):
        return (classes @ channels.mT).argmax(dim=1)

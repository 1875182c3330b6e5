"""AllSpark's class-wise memory of channels, and how channels are sorted into the classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.machine.processes import gathered
from train.students.allspark.decoder import Memory, precise


class SemanticMemory(nn.Module):
    """For each class the C unlabeled channels that came last, first in, first out; the same in every process.

    Only buffers, which belong to the state of training. The size of the map is fixed: N is part of it.

    """

    vectors: Tensor  # float [K, C, N]
    is_filled: Tensor  # bool [K, C]
    pointer: Tensor  # int64 [K], where the next channel of the class goes

    def __init__(self, num_classes: int, num_channels: int, num_tokens: int):
        super().__init__()
        shape = (num_classes, num_channels, num_tokens)
        self.register_buffer("vectors", torch.zeros(shape))
        self.register_buffer("is_filled", torch.zeros(shape[:2], dtype=torch.bool))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.int64))

    def content(self) -> Memory:
        """What AllSparkBlock looks at."""
        return self.vectors, self.is_filled

    @torch.no_grad()
    def enqueue(self, features: Tensor, groups: Tensor) -> None:
        """Put channels behind the others of their class, image by image, the images of all processes in rank order.

        All shapes are fixed, so the host does not wait for the device.

        features: float [B, C, N] of unlabeled images; B the same in every process
        groups:   int64 [B, C], class of each channel, -1 for none
        """
        channels = gathered(features.to(self.vectors.dtype)).flatten(0, 1)  # [T, N]
        classes = gathered(groups).flatten()  # [T]
        place, writer = self._places(classes)
        # Several channels may come to a place, and those without a class stand at place 0: all write what it ends with.
        places, winner = self.vectors.view(len(writer), -1), writer[place]
        places[place] = torch.where(winner[:, None] >= 0, channels[winner.clamp(min=0)], places[place])
        self.is_filled.logical_or_((writer >= 0).view_as(self.is_filled))
        self.pointer.add_(_is_of(classes, len(self.pointer)).sum(dim=0)).remainder_(self.is_filled.shape[1])

    def _places(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Where each channel goes, int64 [T], and which one ends in each place, int64 [K C], -1 for none.

        classes: int64 [T], -1 for none
        """
        num_classes, num_places = self.is_filled.shape
        is_of, of = _is_of(classes, num_classes), classes.clamp(min=0)
        position = is_of.cumsum(dim=0).gather(1, of[:, None])[:, 0] - 1  # among those of its class
        is_kept = (classes >= 0) & (position >= is_of.sum(dim=0)[of] - num_places)  # none of this call comes after it
        place = of * num_places + (self.pointer[of] + position) % num_places
        nowhere = num_classes * num_places
        writers = torch.full((nowhere + 1,), -1, device=classes.device)
        arrivals = torch.arange(len(classes), device=classes.device)
        writers.scatter_(0, torch.where(is_kept, place, nowhere), arrivals)
        return place.where(classes >= 0, 0), writers[:-1]


def _is_of(classes: Tensor, num_classes: int) -> Tensor:
    """bool [T, K]; `one_hot` would look at the values, for which the host waits."""
    return classes[:, None] == torch.arange(num_classes, device=classes.device)


@torch.no_grad()
def channel_groups(logits: Tensor, features: Tensor) -> Tensor:
    """The class whose map of logits points most nearly where a channel does (cosine over the places).

    logits:   float [B, K, H', W'] of any size, brought to that of the features
    features: float [B, C, H, W]
    returns:  int64 [B, C]
    """
    small = functional.interpolate(precise(logits), features.shape[-2:], mode="bilinear", align_corners=False)
    classes, channels = (functional.normalize(precise(maps).flatten(2), dim=-1) for maps in (small, features))
    with torch.autocast(features.device.type, enabled=False):
        return (classes @ channels.mT).argmax(dim=1)

"""What one step teaches: images, what their pixels should be, and how much each part of them counts.

Both stages, and every recipe, differ only in the lesson that they make of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from train.losses import num_with_class, summed_cross_entropy
from train.views import Views


class Part(NamedTuple):
    """Images whose pixels share a weight: `weight` times the sum of their cross-entropies over `num_pixels`."""

    name: Literal["labeled", "unlabeled"]
    images: Tensor  # uint8 [B, 3, H, W]
    targets: Tensor  # uint8 [B, H, W], class index or IGNORE_INDEX
    rows: Sequence[int]
    """The images' places among all that the whole step teaches: dropout is drawn by place."""
    num_pixels: Tensor  # int64 []
    weight: float = 1.0
    channel_masks: Sequence[Tensor] | None = None  # float [B, D, 1, 1] for each feature map


class Lesson(NamedTuple):
    parts: Sequence[Part]
    kept: Tensor | None = None
    """float32 [], share of the unlabelled images' real pixels whose label is believed."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """What the network wants to know besides images and channel masks."""

    def images(self) -> Tensor:
        """uint8 [B, 3, H, W], all parts one after the other: one pass of the network."""
        return torch.cat([part.images for part in self.parts])

    def targets(self) -> Tensor:
        """uint8 [B, H, W], of `images`."""
        return torch.cat([part.targets for part in self.parts])

    def rows(self) -> list[int]:
        """Places of `images`."""
        return [row for part in self.parts for row in part.rows]

    def sizes(self) -> list[int]:
        """Images of each part."""
        return [len(part.images) for part in self.parts]

    def arguments(self) -> dict[str, Any]:
        """What the network gets besides the images."""
        masks = [part.channel_masks for part in self.parts if part.channel_masks is not None]
        if not masks:
            return dict(self.extra)
        ones = [mask.new_ones((1, *mask.shape[1:])) for mask in masks[0]]
        by_part = [
            part.channel_masks or [one.expand(len(part.images), -1, -1, -1) for one in ones] for part in self.parts
        ]
        return {**self.extra, "channel_masks": [torch.cat(level) for level in zip(*by_part, strict=True)]}


def part(
    name: Literal["labeled", "unlabeled"], views: Views, images: Tensor, targets: Tensor, view: int = 0, **more: Any
) -> Part:
    """Some images' view number `view`; unless told otherwise, the mean over their pixels that have a class."""
    return Part(name, images, targets, views.rows(view), **{"num_pixels": num_with_class(targets), **more})


def num_pixels(lessons: Sequence[Lesson]) -> Tensor:
    """int64 [P]: of each part, the pixels of all the lessons that make up a step."""
    return torch.stack([torch.stack([p.num_pixels for p in lesson.parts]) for lesson in lessons]).sum(dim=0)


def part_losses(lesson: Lesson, logits: Tensor, num_pixels: Tensor) -> Tensor:
    """float32 [P]: each part's sum of cross-entropies over the pixels of the whole step; 0 if those are none.

    logits: float [B, K, h, w] of the lesson's images
    """
    sums = torch.split(summed_cross_entropy(logits, lesson.targets()), lesson.sizes())
    return torch.stack([one.sum() for one in sums]) / num_pixels.clamp(min=1)

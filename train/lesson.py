"""What one step teaches: images, what their pixels should be, and how much each part of them counts.

Both stages, and every recipe, differ only in the lesson that they make of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX
from train.hard_pixels import HardPixels, hardness_limit
from train.losses import num_with_class, summed_cross_entropy, true_class_probabilities
from train.machine.processes import gathered
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
    is_pooled: bool = False
    """Whether the parts share one mean over the pixels of all of them."""
    hard: HardPixels | None = None
    """Of the labelled part, the first one: which of its pixels teach. Default: all that have a class."""

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
    """int64 [P]: what each part's loss is divided by, counted in all the lessons that make up a step."""
    counts = torch.stack([torch.stack([p.num_pixels for p in lesson.parts]) for lesson in lessons]).sum(dim=0)
    # contiguous: processes add it up in place
    return counts.sum().expand_as(counts).contiguous() if lessons[0].is_pooled else counts


def hard_lesson(lesson: Lesson, logits: Tensor) -> Lesson:
    """The lesson without the labelled pixels that are easy among those of every process.

    logits: float [B, K, h, w] of the lesson's images, which are the whole of this process's
    """
    if lesson.hard is None:
        return lesson
    first, *others = lesson.parts
    probabilities = true_class_probabilities(logits[: len(first.images)], first.targets)
    num_others = len(logits) - len(first.images)  # processes may have different numbers of labelled images
    everyone = gathered(functional.pad(probabilities, (0, 0, 0, 0, 0, num_others), value=torch.inf))
    # written so that NaN counts as hard: the loss must show it
    targets = first.targets.masked_fill(probabilities > hardness_limit(everyone, lesson.hard), IGNORE_INDEX)
    return lesson._replace(parts=[first._replace(targets=targets, num_pixels=num_with_class(targets)), *others])


def part_losses(lesson: Lesson, logits: Tensor, num_pixels: Tensor) -> Tensor:
    """float32 [P]: each part's sum of cross-entropies over the pixels of the whole step; 0 if those are none.

    logits: float [B, K, h, w] of the lesson's images
    """
    sums = torch.split(summed_cross_entropy(logits, lesson.targets()), lesson.sizes())
    return torch.stack([one.sum() for one in sums]) / num_pixels.clamp(min=1)

"""The views of a batch, made on the device from what the workers decoded and drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from train.augment import cutmix, partners, strong_views, weak_views
from train.data import NUM_VIEWS, Example


class Views(NamedTuple):
    """Weak views of a micro-batch or of some of its images, from which strong ones are made."""

    images: Tensor  # uint8 [B, 3, crop, crop] RGB
    targets: Tensor  # uint8 [B, crop, crop], class index or IGNORE_INDEX (also padding)
    examples: Sequence[Example]
    batch_size: int
    """Number of images of the whole batch."""

    @property
    def places(self) -> list[int]:
        """Places of the images in the whole batch."""
        return [example.draw.place for example in self.examples]

    def select(self, index: Sequence[int]) -> Views:
        """Some of the images, in that order."""
        on_device = torch.tensor(list(index), dtype=torch.int64).to(self.images.device, non_blocking=True)
        images, targets = (tensor.index_select(0, on_device) for tensor in (self.images, self.targets))
        return Views(images, targets, [self.examples[i] for i in index], self.batch_size)

    def split(self) -> tuple[Views, Views]:
        """The labeled and the other images."""
        labeled = [i for i, example in enumerate(self.examples) if example.is_labeled]
        others = [i for i, example in enumerate(self.examples) if not example.is_labeled]
        return self.select(labeled), self.select(others)

    def rows(self, view: int) -> list[int]:
        """Places of the images' view number `view` among all views of the whole batch, see `num_rows`."""
        return [view * self.batch_size + place for place in self.places]

    def strong(self, view: int = 0) -> Tensor:
        """uint8 [B, 3, crop, crop]: colours, grey and blur as drawn for that strong view."""
        return strong_views(self.images, [example.photometrics[view] for example in self.examples])

    def mixed(self, view: int, *maps: Tensor) -> list[Tensor]:
        """Maps [B, ..., crop, crop], each with its partner's pixels in the box drawn for that strong view."""
        boxes = [example.boxes[view] for example in self.examples]
        return cutmix(list(maps), boxes, partners(len(boxes)))


def num_rows(batch_size: int) -> int:
    """Number of places of `Views.rows`."""
    return NUM_VIEWS * batch_size


def weak_views_of(examples: Sequence[Example], batch_size: int, crop: int, device: torch.device) -> Views:
    """Send images and targets to the device and take their weak views.

    batch_size: number of images of the whole batch
    """
    images, targets = (
        [tensor.to(device, non_blocking=True) for tensor in tensors]
        for tensors in zip(*((example.image, example.target) for example in examples), strict=True)
    )
    geometries = [example.geometry for example in examples]
    return Views(*weak_views(images, targets, geometries, crop), examples, batch_size)

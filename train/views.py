"""Weak and strong views of a batch, computed on the device from the decoded images and the drawn parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from train.augment import cutmix, partners, strong_views, target_view, weak_views
from train.data import NUM_VIEWS, Example


class Views(NamedTuple):
    """Weak views of a micro-batch or of some of its images; the strong views are computed from them."""

    images: Tensor  # uint8 [B, 3, crop, crop] RGB
    targets: Tensor  # uint8 [B, crop, crop], class index or IGNORE_INDEX (also padding)
    sets: Tensor  # uint8 [B, bytes, crop, crop], prediction sets that teach (`TrainingImages.sets`); padding: 0
    examples: Sequence[Example]
    batch_size: int
    """Number of images of the whole batch."""

    @property
    def positions(self) -> list[int]:
        """Positions of the images in the whole batch."""
        return [example.draw.position for example in self.examples]

    def select(self, index: Sequence[int]) -> Views:
        """Some of the images, in that order."""
        on_device = torch.tensor(list(index), dtype=torch.int64).to(self.images.device, non_blocking=True)
        images, targets, sets = (one.index_select(0, on_device) for one in (self.images, self.targets, self.sets))
        return Views(images, targets, sets, [self.examples[i] for i in index], self.batch_size)

    def split(self) -> tuple[Views, Views]:
        """The labeled and the unlabeled images."""
        labeled = [i for i, example in enumerate(self.examples) if example.is_labeled]
        unlabeled = [i for i, example in enumerate(self.examples) if not example.is_labeled]
        return self.select(labeled), self.select(unlabeled)

    def rows(self, view: int) -> list[int]:
        """Row of each image's view number `view` among all `num_rows` views of the whole batch; dropout is drawn by it.

        view: 0, ..., NUM_VIEWS - 1
        """
        return [view * self.batch_size + position for position in self.positions]

    def strong(self, view: int = 0) -> Tensor:
        """Strong view number `view` of each image (colours, grey, blur): uint8 [B, 3, crop, crop] RGB."""
        return strong_views(self.images, [example.photometrics[view] for example in self.examples])

    def mixed(self, view: int, *maps: Tensor) -> list[Tensor]:
        """CutMix of strong view number `view`: maps of the same views, each with its box filled from its partner.

        maps:    [B, ..., crop, crop] each: images, labels, confidence masks
        returns: new tensors of the same shapes
        """
        boxes = [example.boxes[view] for example in self.examples]
        return cutmix(list(maps), boxes, partners(len(boxes)))


def num_rows(batch_size: int) -> int:
    """Number of views of the whole batch, which `Views.rows` counts."""
    return NUM_VIEWS * batch_size


def weak_views_of(examples: Sequence[Example], batch_size: int, crop: int, device: torch.device) -> Views:
    """The weak views of the examples, computed on the device.

    batch_size: number of images of the whole batch
    crop:       side of the views, pixels
    """
    images, targets, sets = (
        [tensor.to(device, non_blocking=True) for tensor in tensors]
        for tensors in zip(*((example.image, example.target, example.sets) for example in examples), strict=True)
    )
    geometries = [example.geometry for example in examples]
    set_views = [target_view(one, geometry, crop, padding=0) for one, geometry in zip(sets, geometries, strict=True)]
    return Views(*weak_views(images, targets, geometries, crop), torch.stack(set_views), examples, batch_size)

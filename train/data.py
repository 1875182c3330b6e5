"""What the trainer sees: images with masks, with pseudo-labels, or with neither, in a fixed random order.

Order and augmentation are pure functions of (seed, stage, pass, index), so that a resumed run and any number of
workers give the same bits. A mask of an unlabelled image is never opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import DataSettings, TrainSettings
from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, resize_nearest
from pipeline.store import LabelStore
from train.transforms import View, weak_view


def pseudo_label_to_target(label: npt.NDArray[np.floating[Any]], size: Sequence[int]) -> npt.NDArray[np.uint8]:
    """uint8 `size` (H, W): the class index of each pixel, IGNORE_INDEX where the pseudo-label abstains.

    label: float [h, w] on the grid, class index, NaN = abstain. NaN is replaced before the cast to integers, because
           what such a cast makes of NaN depends on the processor (0, that is a class, on many).
    """
    target = np.where(np.isnan(label), IGNORE_INDEX, label).astype(np.uint8)
    return resize_nearest(target, size)


class Draw(NamedTuple):
    """One entry of the training order: which pass over its list, which image."""

    epoch: int
    place: int


@dataclass(frozen=True)
class Passes:
    """Pass after pass over `num` images, each in its own order; `first` is the dataset's index of image 0.

    take: draws of one pass; fewer than `num` leave out the last ones of its order (an incomplete last batch)
    """

    num: int
    take: int
    key: str
    first: int = 0

    def draws(self, start: int, count: int) -> list[Draw]:
        """Entries start..start+count-1 of the endless order."""
        places = (divmod(position, self.take) for position in range(start, start + count))
        return [Draw(epoch, self.first + shuffled(self.num, f"{self.key}/{epoch}")[place]) for epoch, place in places]


@lru_cache(maxsize=8)
def shuffled(num: int, key: str) -> tuple[int, ...]:
    """A permutation of 0..num-1, a pure function of the key."""
    order = list(range(num))
    random.Random(key).shuffle(order)
    return tuple(order)


def passes(num: int, batch_size: int, key: str, first: int = 0) -> tuple[Passes, int]:
    """Passes of whole batches, and the batches of one pass.

    A list shorter than a batch makes one batch a pass, filled up from the next pass.
    """
    num_batches = max(1, num // batch_size)
    return Passes(num, min(num, num_batches * batch_size), key, first), num_batches


@dataclass(frozen=True)
class TrainingImages(Dataset[tuple[Tensor, Tensor]]):
    """Weakly augmented images with their targets, addressed by draws.

    labels: pseudo-labels of the samples without a mask, and where each sample's is. Without them such a sample's target
            is 0, and IGNORE_INDEX where the crop is padding: nothing but which pixels are real.
    """

    index: SampleIndex
    samples: Sequence[Sample]
    data: DataSettings
    train: TrainSettings
    key: str
    labels: tuple[LabelStore, Mapping[str, int]] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """uint8 [3, crop, crop] RGB and uint8 [crop, crop] target."""
        sample = self.samples[draw.place]
        image = self.index.image(sample)
        rng = random.Random(f"{self.key}/{draw.epoch}/{draw.place}")
        scale = (self.train.scale[0], self.train.scale[1])
        view = weak_view(
            View(image, self.target(sample, image.shape[:2])), rng, self.train.crop, scale, self.train.flip
        )
        return _as_tensor(view.image.transpose(2, 0, 1)), _as_tensor(view.target)

    def target(self, sample: Sample, size: Sequence[int]) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] at the image's own size."""
        if sample.mask is not None:
            return self.index.mask(sample, self.data)
        if self.labels is not None:
            store, places = self.labels
            return pseudo_label_to_target(store.label(places[sample.id]), size)
        return np.zeros(size, np.uint8)


@dataclass(frozen=True)
class WholeImages(Dataset[tuple[Tensor, Tensor]]):
    """Images at their own size, with their masks; without one the target is all IGNORE_INDEX."""

    index: SampleIndex
    samples: Sequence[Sample]
    data: DataSettings

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        """uint8 [3, H, W] RGB and uint8 [H, W] target."""
        sample = self.samples[place]
        image = self.index.image(sample)
        has_mask = sample.mask is not None
        target = self.index.mask(sample, self.data) if has_mask else np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
        return _as_tensor(image.transpose(2, 0, 1)), _as_tensor(target)


def _as_tensor(array: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def training_batches(
    images: TrainingImages, draws: Callable[[int], list[Draw]], steps: range, pin_memory: bool
) -> Iterator[list[Tensor]]:
    """Batches (images uint8 [B, 3, H, W], targets uint8 [B, H, W]) of the steps, one after the other."""
    order: Any = (draws(step) for step in steps)
    # A generator of its own: iterating a loader must not draw from the global one.
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=order,
        num_workers=images.train.workers,
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )
    return iter(loader)


def whole_images(images: WholeImages, workers: int) -> DataLoader[Any]:
    """One image a batch, in order."""
    return DataLoader(images, batch_size=1, num_workers=workers, generator=torch.Generator())

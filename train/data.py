"""What the trainer sees: images with masks, with pseudo-labels, or with neither, in a fixed random order.

Order and augmentation are pure functions of (seed, stage, pass, index), so that a resumed run, any number of workers
and any number of processes see the same views. Workers decode and draw; the device applies what was drawn
(`train.augment`). A mask of an unlabeled image is never opened.
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

from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, class_index, resize_nearest
from pipeline.settings import DataSettings, TrainSettings
from pipeline.store import LabelStore
from train.augment import Box, Geometry, Photometric, draw_box, draw_geometry, draw_photometric

NUM_VIEWS = 2  # strong views that are drawn for every image, whether a stage uses them or not


def pseudo_label_to_target(label: npt.NDArray[np.floating[Any]], size: Sequence[int]) -> npt.NDArray[np.uint8]:
    """uint8 `size` (H, W): the class index of each pixel, IGNORE_INDEX where the pseudo-label abstains.

    label: float [h, w] on the grid, class index, NaN = abstain
    """
    return resize_nearest(class_index(label), size)


class Draw(NamedTuple):
    """One image of the training order, and its place in the batch (`train.engine.stage.own_draws` fills that in)."""

    epoch: int
    """Pass over the image's list."""
    image: int
    """Its index in the data set."""
    place: int = 0
    """In the whole batch, whichever process computes it."""
    micro_batch: int = 0
    """Part of the batch that it is computed in, counted over all processes."""


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
        entries = (divmod(position, self.take) for position in range(start, start + count))
        return [Draw(epoch, self.first + shuffled(self.num, f"{self.key}/{epoch}")[rank]) for epoch, rank in entries]


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


class Example(NamedTuple):
    """One image as it is on disk, its place in the batch, and the random numbers of its views."""

    draw: Draw
    image: Tensor  # uint8 [3, H, W] RGB
    target: Tensor  # uint8 [H, W], class index or IGNORE_INDEX
    is_labeled: bool
    geometry: Geometry
    photometrics: tuple[Photometric, ...]  # of each strong view
    boxes: tuple[Box | None, ...]  # of each strong view: what CutMix takes from its partner
    seed: int
    """Of whatever else is random about this image in this step."""


@dataclass(frozen=True)
class TrainingImages(Dataset[Example]):
    """Images with their targets, addressed by draws.

    labels:   pseudo-labels of the samples without a mask, and where each sample's is. Without them such a sample's
              target is 0: nothing but which pixels are real (padding becomes IGNORE_INDEX).
    is_raw:   the pseudo-labels are the annotator's most probable classes, not the calibrated ones
    cutmix:   probability of a box
    """

    index: SampleIndex
    samples: Sequence[Sample]
    data: DataSettings
    train: TrainSettings
    key: str
    labels: tuple[LabelStore, Mapping[str, int]] | None = None
    is_raw: bool = False
    cutmix: float = 0.0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Example:
        sample = self.samples[draw.image]
        image = self.index.image(sample)
        size = image.shape[:2]
        rng = random.Random(f"{self.key}/{draw.epoch}/{draw.image}")
        scale = (self.train.scale[0], self.train.scale[1])
        return Example(
            draw,
            _as_tensor(image.transpose(2, 0, 1)),
            _as_tensor(self.target(sample, size)),
            sample.mask is not None,
            draw_geometry(rng, size, self.train.crop, scale, self.train.flip),
            tuple(draw_photometric(rng) for _ in range(NUM_VIEWS)),
            tuple(draw_box(rng, self.train.crop, self.cutmix) for _ in range(NUM_VIEWS)),
            rng.getrandbits(63),
        )

    def target(self, sample: Sample, size: Sequence[int]) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] at the image's own size."""
        if sample.mask is not None:
            return self.index.mask(sample, self.data)
        if self.labels is None:
            return np.zeros(size, np.uint8)
        store, places = self.labels
        place = places[sample.id]
        if self.is_raw:
            return resize_nearest(store.raw_argmax(place), size)
        return pseudo_label_to_target(store.label(place), size)


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
) -> Iterator[list[Example]]:
    """Batches of the steps, one after the other."""
    order: Any = (draws(step) for step in steps)
    # A generator of its own: iterating a loader must not draw from the global one.
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=order,
        num_workers=images.train.workers,
        generator=torch.Generator(),
        collate_fn=list,  # images of different sizes; they become tensors of one size on the device
        pin_memory=pin_memory,
    )
    return iter(loader)


def whole_images(images: WholeImages, workers: int) -> DataLoader[Any]:
    """One image a batch, in order."""
    return DataLoader(images, batch_size=1, num_workers=workers, generator=torch.Generator())

"""Training images with masks, with pseudo-labels, or with neither, in a reproducible random order.

The order and the augmentation of an image are pure functions of the seed, the stage, the epoch and the index of the
image. A resumed run therefore trains on the same views, with any number of workers and processes. Workers decode the
files and draw the parameters of the augmentation; the device applies them (`train.augment`). The mask of an unlabeled
image is never opened.
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
from torch.utils.data import Dataset

import calib
from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, class_index, resize_nearest
from pipeline.settings import DataSettings, TrainSettings
from pipeline.store import LabelStore
from pipeline.tiles import only_core
from train.augment import Box, Geometry, Photometric, draw_box, draw_geometry, draw_photometric
from train.loader import loaded

NUM_VIEWS = 2  # strong views drawn for every image, whether or not a stage uses them


def pseudo_label_to_target(label: npt.NDArray[np.floating[Any]], size: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The training target of a pseudo-label: uint8 [H, W], class index, or IGNORE_INDEX where the label abstains.

    label: float [h, w] on the grid, class index, NaN = abstain
    size:  H and W
    """
    return resize_nearest(class_index(label), size)


class Draw(NamedTuple):
    """One image of the training order, and its position in the batch (set by `train.engine.stage.own_draws`)."""

    epoch: int
    """Number of the pass over the list that the image is drawn from."""
    image: int
    """Index of the image in `TrainingImages`."""
    position: int = 0
    """Position in the whole batch, over all processes."""
    micro_batch: int = 0
    """Number of its micro-batch, counted over all processes."""


@dataclass(frozen=True)
class Passes:
    """An endless sequence of passes over the same images, each pass in another random order.

    num:       number of images
    num_drawn: images drawn in one pass; if fewer than `num`, the last ones of its order are left out, because they do
               not fill a batch
    key:       seed of the orders
    first:     index of the first of these images in the data set; the others follow it
    """

    num: int
    num_drawn: int
    key: str
    first: int = 0

    def draws(self, start: int, count: int) -> list[Draw]:
        """Draws number start, ..., start + count - 1 of the sequence."""
        entries = (divmod(number, self.num_drawn) for number in range(start, start + count))
        return [Draw(epoch, self.first + shuffled(self.num, f"{self.key}/{epoch}")[rank]) for epoch, rank in entries]


@lru_cache(maxsize=8)
def shuffled(num: int, key: str) -> tuple[int, ...]:
    """A random permutation of 0, ..., num - 1, a pure function of the key."""
    order = list(range(num))
    random.Random(key).shuffle(order)
    return tuple(order)


def passes(num: int, batch_size: int, key: str, first: int = 0) -> tuple[Passes, int]:
    """Passes that consist of whole batches, and the number of batches per pass.

    If there are fewer images than one batch needs, a pass has one batch, which also takes images of the next passes.
    """
    num_batches = max(1, num // batch_size)
    return Passes(num, min(num, num_batches * batch_size), key, first), num_batches


class Example(NamedTuple):
    """One image as it is stored, its draw, and the parameters of its augmentation."""

    draw: Draw
    image: Tensor  # uint8 [3, H, W] RGB
    target: Tensor  # uint8 [H, W], class index or IGNORE_INDEX
    sets: Tensor  # uint8 [bytes, H, W], prediction sets that teach, 0 elsewhere; 0 bytes in a stage without set loss
    is_labeled: bool
    geometry: Geometry
    photometrics: tuple[Photometric, ...]  # one per strong view
    boxes: tuple[Box | None, ...]  # one per strong view: the box that CutMix fills from the partner; None = no box
    seed: int
    """Seed of everything else that is random about this image in this step."""


@dataclass(frozen=True)
class TrainingImages(Dataset[Example]):
    """Images with their targets, accessed by draws.

    labels: store of the pseudo-labels of the samples without a mask, and the index of each sample id in it. Without a
            store the target of such a sample is 0 everywhere; it only separates real pixels from padding, which
            becomes IGNORE_INDEX.
    is_raw: whether the pseudo-labels are the annotator's most probable classes instead of the calibrated labels
    has_sets: whether the prediction sets in the store of the pseudo-labels teach as well
    cutmix: probability of a CutMix box, 0 to 1
    """

    index: SampleIndex
    samples: Sequence[Sample]
    data: DataSettings
    train: TrainSettings
    key: str
    labels: tuple[LabelStore, Mapping[str, int]] | None = None
    is_raw: bool = False
    has_sets: bool = False
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
            _as_tensor(self.sets(sample, size)),
            sample.mask is not None,
            draw_geometry(rng, size, self.train.crop, scale, self.train.flip),
            tuple(draw_photometric(rng) for _ in range(NUM_VIEWS)),
            tuple(draw_box(rng, self.train.crop, self.cutmix) for _ in range(NUM_VIEWS)),
            rng.getrandbits(63),
        )

    def target(self, sample: Sample, size: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Target at the image's own size (H, W): uint8 [H, W], class index or IGNORE_INDEX, also outside a core."""
        if sample.mask is not None:
            return self.index.mask(sample, self.data)
        return only_core(self._target_without_mask(sample, size), sample.tile, IGNORE_INDEX)

    def _target_without_mask(self, sample: Sample, size: Sequence[int]) -> npt.NDArray[np.uint8]:
        if self.labels is None:
            return np.zeros(size, np.uint8)
        store, index_of = self.labels
        if self.is_raw:
            return resize_nearest(store.raw_argmax(index_of[sample.id]), size)
        return pseudo_label_to_target(store.label(index_of[sample.id]), size)

    @property
    def bytes_of_set(self) -> int:
        """Number of bytes of the set of a pixel; 0 if sets do not teach."""
        return calib.num_bytes(self.data.num_classes) if self.has_sets else 0

    def sets(self, sample: Sample, size: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Prediction sets that teach (`calib.teaching_sets`), at the image's own size: uint8 [bytes, H, W].

        size: H and W
        """
        if not self.has_sets or self.labels is None or sample.mask is not None:
            return np.zeros((self.bytes_of_set, *size), np.uint8)
        store, index_of = self.labels
        index = index_of[sample.id]
        teaching = calib.teaching_sets(store.sets(index), store.label(index), self.data.num_classes)
        return only_core(resize_nearest(teaching, size), sample.tile, 0)


@dataclass(frozen=True)
class WholeImages(Dataset[tuple[Tensor, Tensor]]):
    """Images at their own size with their masks; the target of an image without a mask is IGNORE_INDEX everywhere."""

    index: SampleIndex
    samples: Sequence[Sample]
    data: DataSettings

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Image and target of a sample: uint8 [3, H, W] RGB, and uint8 [H, W], class index or IGNORE_INDEX."""
        sample = self.samples[number]
        image = self.index.image(sample)
        has_mask = sample.mask is not None
        target = self.index.mask(sample, self.data) if has_mask else np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
        return _as_tensor(image.transpose(2, 0, 1)), _as_tensor(target)


def _as_tensor(array: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


BYTES_PER_PIXEL = 4  # image and target


def bytes_of(samples: Sequence[Sample], num: int, bytes_of_set: int = 0) -> int:
    """Upper bound of the size of `num` of these images with their targets and sets, in bytes."""
    per_pixel = BYTES_PER_PIXEL + bytes_of_set
    return num * max((per_pixel * sample.height * sample.width for sample in samples), default=0)


def training_batches(
    images: TrainingImages, draws: Callable[[int], list[Draw]], steps: range, pin_memory: bool
) -> Iterator[list[Example]]:
    """The batches of the steps, in order; raises as `train.loader.loaded`."""
    num_bytes = bytes_of(images.samples, len(draws(steps[0])), images.bytes_of_set) if steps else 0
    return loaded(images, (draws(step) for step in steps), num_bytes, images.train.workers, pin_memory)


def whole_images(images: WholeImages, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, one per batch: uint8 [1, 3, H, W] RGB and uint8 [1, H, W] target.

    raises: as `train.loader.loaded`
    """
    single = ([number] for number in range(len(images)))
    batches = loaded(images, single, bytes_of(images.samples, 1), workers)
    return ((image[None], target[None]) for ((image, target),) in batches)

"""Parts of the recipes that both stages use: the student's network, AllSpark's grouping, complementary dropout."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from pipeline.settings import Settings, TrainSettings
from train.hard_pixels import HardPixels
from train.machine.device import Compute
from train.student import Student
from train.students import freeze, new_network
from train.views import Views


def new_student(settings: Settings, compute: Compute, weights: str | None = None, stage: str = "stage1") -> Student:
    """The student before the first step of a stage; parameters without given weights are drawn at random.

    They are drawn from torch's global generator.

    weights: as `train.weights`. Default: `train.initial_weights`
    stage:   stage1 or stage2, which decides whether the student has AllSpark's block
    raises:  TrainingError for weights that cannot be found or do not fit
    """
    train, class_names = settings.train, settings.data.class_names
    network = new_network(train.student, weights or train.initial_weights, class_names)
    freeze(network, train.frozen_stages, train.frozen_norms)
    if has_block(settings, stage):
        from train.students.allspark.network import AllSparkNetwork

        network = AllSparkNetwork(network, len(class_names), train.crop)
    return Student(network, compute)


def has_block(settings: Settings, stage: str) -> bool:
    """Whether the student of a stage, stage1 or stage2, has AllSpark's block."""
    return settings.train.framework == "allspark" and (stage != "stage1" or settings.stage1.network == "allspark")


def grouping(settings: Settings, num_labeled: int, logits: Tensor, epoch: int) -> dict[str, Any]:
    """The arguments of AllSpark's network, besides the images.

    num_labeled: number of labeled images, which come first
    logits:      float [B, K, h, w] of the unlabeled images
    epoch:       counted from the start of the first stage that has the block
    """
    from train.students.allspark.network import Grouping

    return {"grouping": Grouping(num_labeled, logits, epoch >= settings.train.memory_warmup)}


def hard_pixels(settings: TrainSettings) -> HardPixels | None:
    """The selection of the hard labeled pixels; None if all labeled pixels count in the loss."""
    if settings.labeled_loss == "cross_entropy":
        return None
    return HardPixels(settings.ohem_threshold, settings.ohem_min_kept)


def channel_masks(settings: Settings, student: Student, unlabeled: Views, step: int) -> list[list[Tensor] | None]:
    """The channel masks of complementary dropout (UniMatch-V2, section 3.3 and its code).

    The first view of an image keeps a random half of the channels, the second view the other half. Exactly half of the
    images of a batch, rounded down, keep all channels. The mask of an image is drawn from the image's seed, and the
    images without a mask from the seed of the step, so processes need not communicate.

    returns: for each strong view a list with, per feature map, float [B, D, 1, 1] of 0, 1 or 2; None without
             complementary dropout
    """
    own = settings.stage2
    if not own.complementary_dropout:
        return [None] * own.views
    unmasked = unmasked_images(settings.seed, step, own.batch_unlabeled)
    numbers = [position - own.batch_labeled for position in unlabeled.positions]
    widths = student.model.feature_widths()
    by_image = [
        _image_masks(example.seed, widths, number in unmasked)
        for number, example in zip(numbers, unlabeled.examples, strict=True)
    ]
    device = unlabeled.images.device
    first = [
        torch.stack(level)[:, :, None, None].to(device, non_blocking=True) for level in zip(*by_image, strict=True)
    ]
    return [first, [2 - level for level in first]]


def unmasked_images(seed: int, step: int, num: int) -> set[int]:
    """A random half, rounded down, of the unlabeled images 0, ..., num - 1 of a step's whole batch."""
    return set(random.Random(f"{seed}/stage2/left_alone/{step}").sample(range(num), num // 2))


def _image_masks(seed: int, widths: list[int], is_unmasked: bool) -> list[Tensor]:
    """The masks of one image: float [D] per feature map, 0 or 2 with equal probability, or all 1.

    Feature maps of one width share a mask: in DINO all of them are the same channels, a few layers apart. Feature maps
    of other encoders differ in width and have no channel in common, so each has its own mask.
    """
    if is_unmasked:
        return [torch.ones(width) for width in widths]
    generator = torch.Generator().manual_seed(seed)
    masks = {width: 2 * torch.randint(0, 2, (width,), generator=generator).float() for width in dict.fromkeys(widths)}
    return [masks[width] for width in widths]

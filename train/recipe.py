"""What recipes add to the two stages: the student's network, AllSpark's grouping, complementary channel dropout."""

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
from train.students.allspark.network import AllSparkNetwork, Grouping
from train.views import Views


def new_student(settings: Settings, compute: Compute, weights: str | None = None, stage: str = "stage1") -> Student:
    """The student of a stage's step 0; what its weights lack comes from torch's global generator.

    weights: default: `train.initial_weights`
    raises:  TrainingError for weights that cannot be found or do not fit
    """
    train, class_names = settings.train, settings.data.class_names
    network = new_network(train.student, weights or train.initial_weights, class_names)
    freeze(network, train.frozen_stages, train.frozen_norms)
    if has_block(settings, stage):
        network = AllSparkNetwork(network, len(class_names), train.crop)
    return Student(network, compute)


def has_block(settings: Settings, stage: str) -> bool:
    """Whether a stage's student has AllSpark's block."""
    return settings.train.framework == "allspark" and (stage != "stage1" or settings.stage1.network == "allspark")


def grouping(settings: Settings, num_labeled: int, logits: Tensor, epoch: int) -> dict[str, Any]:
    """The arguments of AllSpark's network.

    logits: float [B, K, h, w] of the unlabeled images
    epoch:  counted from the start of the first stage that has the block
    """
    return {"grouping": Grouping(num_labeled, logits, epoch >= settings.train.memory_warmup)}


def hard_pixels(settings: TrainSettings) -> HardPixels | None:
    """Which labeled pixels count in the loss; None: all of them."""
    if settings.labeled_loss == "cross_entropy":
        return None
    return HardPixels(settings.ohem_threshold, settings.ohem_min_kept)


def channel_masks(settings: Settings, student: Student, unlabeled: Views, step: int) -> list[list[Tensor] | None]:
    """For each strong view, float [B, D, 1, 1] for each feature map, 0 or 2; None without complementary dropout.

    Of an image's two views one sees a random half of the channels and the other the rest; exactly half of the images of
    a batch, rounded down, are left alone (UniMatch-V2, section 3.3 and its code). An image's mask comes from its own
    seed, and which images are left alone from the step's, so that processes need not ask each other.
    """
    own = settings.stage2
    if not own.complementary_dropout:
        return [None] * own.views
    alone = images_left_alone(settings.seed, step, own.batch_unlabeled)
    numbers = [place - own.batch_labeled for place in unlabeled.places]
    widths = student.model.feature_widths()
    by_image = [
        _image_masks(example.seed, widths, number in alone)
        for number, example in zip(numbers, unlabeled.examples, strict=True)
    ]
    device = unlabeled.images.device
    first = [
        torch.stack(level)[:, :, None, None].to(device, non_blocking=True) for level in zip(*by_image, strict=True)
    ]
    return [first, [2 - level for level in first]]


def images_left_alone(seed: int, step: int, num: int) -> set[int]:
    """Half of the unlabeled images 0..num-1 of a step's whole batch, rounded down."""
    return set(random.Random(f"{seed}/stage2/left_alone/{step}").sample(range(num), num // 2))


def _image_masks(seed: int, widths: list[int], is_left_alone: bool) -> list[Tensor]:
    """float [D] for each feature map: 0 or 2 with even chance, or all 1.

    Maps of one width share a mask: all levels of DINO are the same channels, a few layers apart. Levels of other
    encoders have different widths and no channel in common, so each has a mask of its own.
    """
    if is_left_alone:
        return [torch.ones(width) for width in widths]
    generator = torch.Generator().manual_seed(seed)
    masks = {width: 2 * torch.randint(0, 2, (width,), generator=generator).float() for width in dict.fromkeys(widths)}
    return [masks[width] for width in widths]

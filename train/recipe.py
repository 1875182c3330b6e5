"""What recipes add to the two stages: the student's network, AllSpark's grouping, complementary channel dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.config import Settings, Stage2Settings
from train.allspark_network import AllSparkNetwork, Grouping
from train.compute import Compute
from train.student import Student
from train.students import freeze, new_network
from train.views import Views


def new_student(settings: Settings, compute: Compute, weights: str | None = None) -> Student:
    """The student of step 0; what its weights lack comes from torch's global generator.

    weights: default: `train.initial_weights`
    raises:  TrainingError for weights that cannot be found or do not fit
    """
    train, class_names = settings.train, settings.data.class_names
    network = new_network(train.student, weights or train.initial_weights, class_names)
    freeze(network, train.frozen_stages, train.frozen_norms)
    if train.framework == "allspark":
        network = AllSparkNetwork(network, len(class_names), train.crop, train.allspark_compat)
    return Student(network, compute)


def grouping(settings: Settings, num_labeled: int, logits: Tensor, epoch: int) -> dict[str, Any]:
    """What AllSpark's network wants to know; nothing for a plain one.

    logits: float [B, K, h, w] of the unlabelled images
    epoch:  counted from the start of Stage I
    """
    if settings.train.framework == "plain":
        return {}
    return {"grouping": Grouping(num_labeled, logits, epoch >= settings.train.memory_warmup)}


def channel_masks(own: Stage2Settings, student: Student, unlabeled: Views) -> list[list[Tensor] | None]:
    """For each strong view, float [B, D, 1, 1] for each feature map, 0 or 2; None without complementary dropout.

    Of an image's two views one sees a random half of the channels and the other the rest; half of the images are left
    alone (UniMatch-V2, section 3.3). Drawn from the images' own seeds.
    """
    if not own.complementary_dropout:
        return [None] * own.views
    by_image = [_image_masks(example.seed, student.model.feature_widths()) for example in unlabeled.examples]
    device = unlabeled.images.device
    first = [
        torch.stack(level)[:, :, None, None].to(device, non_blocking=True) for level in zip(*by_image, strict=True)
    ]
    return [first, [2 - level for level in first]]


def _image_masks(seed: int, widths: list[int]) -> list[Tensor]:
    """float [D] for each feature map: 0 or 2 with even chance, or all 1."""
    generator = torch.Generator().manual_seed(seed)
    is_left_alone = torch.rand((), generator=generator) < 0.5
    masks = [2 * torch.randint(0, 2, (width,), generator=generator).float() for width in widths]
    return [torch.ones_like(mask) for mask in masks] if is_left_alone else masks

"""Online pseudo-labels of unlabeled pixels, and their confidence mask."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from calib.histogram import Taxonomy, add_image, empty_histogram, group_quantile
from pipeline.datasets import IGNORE_INDEX
from train.data import WholeImages, whole_images
from train.losses import upsampled
from train.student import Student, evaluating


class SelfLabels(NamedTuple):
    labels: Tensor  # uint8 [B, H, W], IGNORE_INDEX on padding
    is_confident: Tensor  # bool [B, H, W]; False on padding
    logits: Tensor  # float [B, K, h, w], the network's own, coarse


class Confidence(NamedTuple):
    """Which online pseudo-labels are confident.

    none: all. threshold: probability >= level. conformal: the label alone has probability >= 1 - level, that is, the
    prediction set at the quantile `level` of held-out scores holds one class.
    """

    rule: Literal["none", "threshold", "conformal"]
    level: float = 0.0


@torch.no_grad()
def self_labels(student: Student, images: Tensor, targets: Tensor, confidence: Confidence) -> SelfLabels:
    """The most probable class of each real pixel, by the network in evaluation mode.

    images:  uint8 [B, 3, H, W]
    targets: uint8 [B, H, W]; only IGNORE_INDEX (padding) is used
    """
    with evaluating(student.model):
        coarse = student.coarse_logits(images, student.compiled)
    is_padding = targets == IGNORE_INDEX
    labels, is_confident = torch.empty_like(targets), torch.empty_like(is_padding)
    for i in range(len(images)):  # one image's full-size logits at a time
        labels[i], is_confident[i] = _label(upsampled(coarse[i : i + 1].float(), images.shape[-2:])[0], confidence)
    return SelfLabels(labels.masked_fill_(is_padding, IGNORE_INDEX), is_confident & ~is_padding, coarse)


def _label(logits: Tensor, confidence: Confidence) -> tuple[Tensor, Tensor]:
    """float32 [K, H, W] -> class index [H, W] and bool [H, W]."""
    if confidence.rule == "conformal":
        (first, second), labels = logits.softmax(dim=0).topk(2, dim=0)
        bound = 1 - confidence.level
        return labels[0], (first >= bound) & (second < bound)
    largest, label = logits.max(dim=0)
    if confidence.rule == "none":
        return label, torch.ones_like(label, dtype=torch.bool)
    return label, (largest - logits.logsumexp(dim=0)).exp() >= confidence.level


@torch.no_grad()
def conformal_level(student: Student, images: WholeImages, alpha: float, workers: int) -> float:
    """The threshold of the scores 1 - P(true class) on labeled images that the network has not been trained on.

    A new pixel's prediction set misses its class with probability at most alpha, if its image is exchangeable with
    these (hierarchical pooling, see `calib.histogram.group_quantile`).
    """
    histogram = empty_histogram(1)
    with evaluating(student.model):
        for image, target in whole_images(images, workers):
            probabilities = student.logits(image)[0].softmax(dim=0)
            truth = target[0].to(probabilities.device)
            is_void = truth == IGNORE_INDEX
            true_class = truth.masked_fill(is_void, 0).long()
            score = (1 - probabilities.gather(0, true_class[None])[0]).masked_fill(is_void, float("nan"))
            one_region = Taxonomy(np.zeros(tuple(truth.shape), np.int32), np.zeros((1, 1), np.int32))
            add_image(histogram, score.float().cpu().numpy(), target[0].numpy(), one_region, "hierarchical")
    return float(group_quantile(histogram, alpha, "exact", "hierarchical")[0])

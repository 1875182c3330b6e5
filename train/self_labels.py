"""Online pseudo-labels of unlabeled pixels, and their confidence mask."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from calib.histogram import Taxonomy, add_image, empty_histogram, group_quantiles
from pipeline.datasets import IGNORE_INDEX
from train.data import WholeImages, whole_images
from train.losses import upsampled
from train.student import Student, evaluating


class SelfLabels(NamedTuple):
    """Online pseudo-labels of a batch."""

    labels: Tensor  # uint8 [B, H, W], class index; IGNORE_INDEX on padding
    is_confident: Tensor  # bool [B, H, W]; False on padding
    logits: Tensor  # float [B, K, h, w], at the resolution of the network


class Confidence(NamedTuple):
    """The rule that decides which online pseudo-labels are confident.

    none:      all labels are
    threshold: labels whose probability is at least `threshold`
    conformal: labels that are the only class in the prediction set, which holds the classes with score
               1 - probability <= `threshold`
    """

    rule: Literal["none", "threshold", "conformal"]
    threshold: float = 0.0


@torch.no_grad()
def self_labels(student: Student, images: Tensor, targets: Tensor, confidence: Confidence) -> SelfLabels:
    """The most probable class of each real pixel, predicted in evaluation mode.

    images:  uint8 [B, 3, H, W] RGB
    targets: uint8 [B, H, W]; only used to find padding, which is IGNORE_INDEX
    """
    with evaluating(student.model):
        coarse = student.coarse_logits(images, student.compiled)
    is_padding = targets == IGNORE_INDEX
    labels, is_confident = torch.empty_like(targets), torch.empty_like(is_padding)
    for i in range(len(images)):  # to hold the full-size logits of one image only
        labels[i], is_confident[i] = _label(upsampled(coarse[i : i + 1].float(), images.shape[-2:])[0], confidence)
    return SelfLabels(labels.masked_fill_(is_padding, IGNORE_INDEX), is_confident & ~is_padding, coarse)


def _label(logits: Tensor, confidence: Confidence) -> tuple[Tensor, Tensor]:
    """Logits float32 [K, H, W] -> most probable class, int64 [H, W], and whether it is confident, bool [H, W]."""
    if confidence.rule == "conformal":
        (first, second), labels = logits.softmax(dim=0).topk(2, dim=0)
        smallest = 1 - confidence.threshold  # probability in the prediction set
        return labels[0], (first >= smallest) & (second < smallest)
    largest, label = logits.max(dim=0)
    if confidence.rule == "none":
        return label, torch.ones_like(label, dtype=torch.bool)
    return label, (largest - logits.logsumexp(dim=0)).exp() >= confidence.threshold


@torch.no_grad()
def conformal_threshold(student: Student, images: WholeImages, alpha: float, workers: int) -> float:
    """The conformal threshold of the scores 1 - P(true class) on labeled images that the student was not trained on.

    The prediction set of a pixel in a new image misses its true class with probability at most alpha, if that image is
    exchangeable with these (hierarchical pooling, see `calib.histogram.group_quantiles`).

    returns: in [0, 1]; +inf if there are too few images for this alpha
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
    return float(group_quantiles(histogram, [alpha], "exact", "hierarchical").item())

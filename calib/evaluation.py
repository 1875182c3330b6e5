"""Cross-fitting evaluation on the labeled images: each fold is evaluated with thresholds of the other folds.

Conformal prediction guarantees coverage. It does not guarantee precision, the fraction of the labels that are correct:
a set that contains the true class may contain other classes, and the label may be one of those. A student needs labels
of every class. mIoU, in which a pixel without a label counts as missed and every class has the same weight, orders
labels as the students do that are trained on them. All measures are also computed for the annotator's argmax.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.estimates import (
    NUM_RESAMPLES,
    Estimate,
    Resampled,
    difference_of,
    estimate,
    fraction_above_zero,
    fraction_of,
    interval,
    resampled_fraction,
)
from calib.judgement import Judgement
from calib.units import bootstrap_weights, each_alone


class Raw(NamedTuple):
    """Estimates for the annotator's argmax, which labels every pixel and needs no threshold.

    precision:           [], fraction of the pixels that are labeled correctly
    precision_per_class: [K], by label
    recall_per_class:    [K], by true class
    miou:                []
    miou_samples:        float64 [NUM_RESAMPLES], mIoU in each bootstrap sample
    label_fractions:     float64 [K], fraction of the labels that are of each class
    """

    precision: Estimate
    precision_per_class: Estimate
    recall_per_class: Estimate
    miou: Estimate
    miou_samples: npt.NDArray[np.float64]
    label_fractions: npt.NDArray[np.float64]


class AgainstRaw(NamedTuple):
    """Labels of A alphas and R rules compared with the annotator's argmax, paired by image: [A, R] each.

    With a threshold on its own probability, the argmax can have any keep rate. The threshold at which it keeps as many
    pixels as the labels do is computed on the held-out images without their true classes, so it needs no cross-fitting.
    Of the pixels in the last bin of probability (`judgement.GRID_STEPS`), a fraction is counted.

    same_keep:           precision of the argmax at the keep rate of the labels
    precision:           precision of the labels minus that of the argmax at all pixels
    precision_same_keep: precision of the labels minus `same_keep`
    miou:                mIoU of the labels minus that of the argmax at all pixels
    """

    same_keep: Estimate
    precision: Estimate
    precision_same_keep: Estimate
    miou: Estimate


class HeldOut(NamedTuple):
    """Estimates on L held-out images, for A alphas, R rules and K classes.

    All fractions are of pixels that have a true class.

    coverage:            [A], fraction whose true class is in the prediction set
    coverage_per_class:  [A, K], the same by true class
    coverage_per_image:  float64 [L, A], the same by image; NaN for an image without a true class
    image_coverage:      [A], mean of `coverage_per_image` over the images, each with the same weight
    uncalibrated:        float64 [A], fraction that is covered only because no finite threshold exists
    sizes:               [A, 3], fractions whose prediction set is empty, has one class, has several classes
    precision:           [A, R], fraction of the labels that are correct
    precision_per_class: [A, R, K], the same by label
    recall_per_class:    [A, R, K], fraction of the pixels of a true class that are labeled with it
    label_fractions:     float64 [A, R, K], fraction of the labels that are of each class; NaN without labels
    class_fractions:     float64 [K], fraction of the pixels that belong to each class
    miou:                [A, R], mean IoU over the classes that have pixels; a pixel without a label counts as missed
    miou_samples:        float64 [NUM_RESAMPLES, A, R], mIoU in each bootstrap sample. The samples have the same images
                         for all labels of the same images and seed, so that any two can be compared (`compare_miou`)
    keep_rate:           [A, R], fraction that is labeled
    wrong:               [A, R], fraction that is labeled wrong. Variant risk bounds its mean over images, which is the
                         same if the images have equally many pixels with a true class
    against_raw:         [A, R] each
    miou_is_larger:      float64 [A, R], fraction of the bootstrap samples in which the mIoU is larger than that of the
                         argmax; equal mIoU counts one half
    raw:                 of the annotator's argmax, the same for all alphas and rules
    """

    coverage: Estimate
    coverage_per_class: Estimate
    coverage_per_image: npt.NDArray[np.float64]
    image_coverage: Estimate
    uncalibrated: npt.NDArray[np.float64]
    sizes: Estimate
    precision: Estimate
    precision_per_class: Estimate
    recall_per_class: Estimate
    label_fractions: npt.NDArray[np.float64]
    class_fractions: npt.NDArray[np.float64]
    miou: Estimate
    miou_samples: npt.NDArray[np.float64]
    keep_rate: Estimate
    wrong: Estimate
    against_raw: AgainstRaw
    miou_is_larger: npt.NDArray[np.float64]
    raw: Raw

    def without(self, alpha_index: int) -> "HeldOut":
        """The same estimates, with NaN at one alpha for all of them except `uncalibrated`."""
        cleared: dict[str, Any] = {
            "coverage_per_image": _cleared(self.coverage_per_image, alpha_index, axis=1),
            "miou_samples": _cleared(self.miou_samples, alpha_index, axis=1),
            "miou_is_larger": _cleared(self.miou_is_larger, alpha_index, axis=0),
            "label_fractions": _cleared(self.label_fractions, alpha_index, axis=0),
            "against_raw": AgainstRaw(*(_cleared_estimate(values, alpha_index) for values in self.against_raw)),
        }
        for name, values in self._asdict().items():
            if isinstance(values, Estimate):
                cleared[name] = _cleared_estimate(values, alpha_index)
        return self._replace(**cleared)


def _of_all(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Fractions of the pixels of all images by class, float64 [..., K]; NaN without pixels. counts: [L, ..., K]"""
    by_class = counts.sum(axis=0)
    return fraction_of(by_class, np.broadcast_to(by_class.sum(axis=-1, keepdims=True), by_class.shape))


def _cleared_estimate(estimate: Estimate, index: int) -> Estimate:
    return Estimate(*(_cleared(values, index, axis=0) for values in estimate))


def _cleared(values: npt.NDArray[np.float64], index: int, axis: int) -> npt.NDArray[np.float64]:
    values = values.copy()
    values[(slice(None),) * axis + (index,)] = np.nan
    return values


def summarise(
    judgements: Sequence[Judgement], rng: np.random.Generator, unit_of_image: npt.NDArray[np.integer] | None = None
) -> HeldOut:
    """Estimates with intervals from the counts of all held-out images.

    judgements:    one per image, all with the same alphas and rules
    rng:           draws the bootstrap samples
    unit_of_image: integer [L]; default: each image is its own unit. Intervals of few units are too narrow, and those of
                   a single one are points
    """
    counts = Judgement(*(np.stack(of_images) for of_images in zip(*judgements, strict=True)))
    units = each_alone(len(judgements)) if unit_of_image is None else unit_of_image
    weights = bootstrap_weights(units, NUM_RESAMPLES, rng)
    valid = counts.valid.sum(axis=1)  # [L]
    kept, right = counts.kept.sum(axis=3), counts.right.sum(axis=3)  # [L, A, R]
    covered = counts.covered.sum(axis=2)  # [L, A]
    per_image = fraction_of(covered, np.broadcast_to(valid[:, None], covered.shape))
    miou = _mean_iou(counts.right, counts.kept, counts.valid, weights)
    raw_miou = _mean_iou(counts.raw_right[:, None, None], counts.raw_kept[:, None, None], counts.valid, weights)
    return HeldOut(
        coverage=estimate(covered, valid[:, None], weights),
        coverage_per_class=estimate(counts.covered, counts.valid[:, None], weights),
        coverage_per_image=per_image,
        image_coverage=estimate(np.nan_to_num(per_image), (valid > 0)[:, None], weights),
        uncalibrated=fraction_of(counts.uncalibrated.sum(axis=0), np.full(covered.shape[1], valid.sum())),
        sizes=estimate(counts.sizes, valid[:, None, None], weights),
        precision=estimate(right, kept, weights),
        precision_per_class=estimate(counts.right, counts.kept, weights),
        recall_per_class=estimate(counts.right, counts.valid[:, None, None], weights),
        label_fractions=_of_all(counts.kept),
        class_fractions=_of_all(counts.valid),
        miou=interval(*miou),
        miou_samples=miou[1],
        keep_rate=estimate(kept, valid[:, None, None], weights),
        wrong=estimate(kept - right, valid[:, None, None], weights),
        against_raw=_against_raw(counts, weights, miou, raw_miou),
        miou_is_larger=fraction_above_zero(*difference_of(miou, raw_miou)),
        raw=Raw(
            estimate(counts.raw_right.sum(axis=1), valid, weights),
            estimate(counts.raw_right, counts.raw_kept, weights),
            estimate(counts.raw_right, counts.valid, weights),
            interval(*(values[..., 0, 0] for values in raw_miou)),
            raw_miou[1][:, 0, 0],
            _of_all(counts.raw_kept),
        ),
    )


def _mean_iou(
    right: npt.NDArray[np.integer],
    kept: npt.NDArray[np.integer],
    valid: npt.NDArray[np.integer],
    weights: npt.NDArray[np.float64],
) -> Resampled:
    """Mean IoU over the classes that have pixels: [A, R] and [NUM_RESAMPLES, A, R].

    The IoU of a class is the number of pixels that are labeled with it correctly, over the number of pixels that are
    labeled with it or belong to it; pixels without a label count in the denominator.

    right, kept: [L, A, R, K] by label
    valid:       [L, K] by true class
    """
    all_images = np.ones((1, len(valid)))
    value = np.stack([_mean_iou_of(right[:, a], kept[:, a], valid, all_images)[0] for a in range(right.shape[1])])
    # One alpha at a time, because the bootstrap samples of one take 20 MB with 150 classes.
    resampled = [_mean_iou_of(right[:, a], kept[:, a], valid, weights) for a in range(right.shape[1])]
    return value, np.stack(resampled, axis=1)


def _mean_iou_of(
    right: npt.NDArray[np.integer],
    kept: npt.NDArray[np.integer],
    valid: npt.NDArray[np.integer],
    weights: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Mean IoU of B weighted sums of the images: float64 [B, R], NaN where no class has a pixel.

    right, kept: [L, R, K]; valid: [L, K]; weights: [B, L]
    """
    total_right, total_kept = (np.tensordot(weights, counts.astype(np.float64), axes=1) for counts in (right, kept))
    total_valid = (weights @ valid)[:, None]
    iou = fraction_of(total_right, total_kept + total_valid - total_right)
    has_pixels = np.broadcast_to(total_valid > 0, iou.shape)
    return fraction_of(np.where(has_pixels, iou, 0).sum(axis=2), has_pixels.sum(axis=2))


def _against_raw(
    counts: Judgement, weights: npt.NDArray[np.float64], miou: Resampled, raw_miou: Resampled
) -> AgainstRaw:
    kept, right = counts.kept.sum(axis=3), counts.right.sum(axis=3)  # [L, A, R]
    precision = resampled_fraction(right, kept, weights)
    raw = resampled_fraction(
        counts.raw_right.sum(axis=1)[:, None, None], counts.valid.sum(axis=1)[:, None, None], weights
    )
    raw_kept, raw_right = _most_confident(counts.confidence, kept.sum(axis=0))
    same_keep = resampled_fraction(raw_right, raw_kept, weights)
    return AgainstRaw(
        interval(*same_keep),
        interval(*difference_of(precision, raw)),
        interval(*difference_of(precision, same_keep)),
        interval(*difference_of(miou, raw_miou)),
    )


def _most_confident(
    confidence: npt.NDArray[np.integer], num_kept: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The most confident pixels of all images: how many of them each image has, and how many of these are correct.

    Of the last bin a fraction of the pixels is counted, so that `num_kept` is reached exactly.

    confidence: [L, NUM_CONFIDENCES, 2], as in Judgement
    num_kept:   [A, R], number of pixels to count
    returns:    float64 [L, A, R] each
    """
    in_bin = confidence[..., 0].sum(axis=0)
    before = np.concatenate([[0], in_bin.cumsum()])
    last = np.clip(np.searchsorted(before, num_kept, side="left") - 1, 0, len(in_bin) - 1)
    fraction = (num_kept - before[last]) / np.maximum(in_bin[last], 1)
    up_to = np.concatenate([np.zeros_like(confidence[:, :1]), confidence.cumsum(axis=1)], axis=1)
    counted = up_to[:, last] + fraction[..., None] * confidence[:, last]  # [L, A, R, 2]
    return counted[..., 0], counted[..., 1]

"""The audit: pseudo-labels compared with masks of unlabeled images, which no earlier stage reads.

All counts are sums over pixels, so images are counted one by one and the counts are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]


class AuditCounts(NamedTuple):
    """Counts of pixels with a true class. Void is not counted; counts of several images add up field by field.

    raw:          int64 [K, K], rows = true class, columns = most probable class
    kept:         int64 [K, K], pixels with a pseudo-label, rows = true class, columns = pseudo-label
    raw_kept:     int64 [K, K], the same pixels, columns = most probable class; differs from `kept` where the rule
                  preferred a foreground class to a more probable background
    scored:       pixels whose probabilities are stored; the next two are among them
    covered:      pixels whose true class is in the prediction set, which holds every class without a finite threshold
    uncalibrated: pixels at a location without a finite threshold
    """

    raw: Counts
    kept: Counts
    raw_kept: Counts
    scored: int
    covered: int
    uncalibrated: int


def no_counts(num_classes: int) -> AuditCounts:
    """All counts are 0."""
    zeros = np.zeros((num_classes, num_classes), np.int64)
    return AuditCounts(zeros, zeros, zeros, 0, 0, 0)


def total(counted: Iterable[AuditCounts], num_classes: int) -> AuditCounts:
    """Sum of the counts of several images, or of several regions of an image."""
    return AuditCounts(*(sum(fields[1:], fields[0]) for fields in zip(no_counts(num_classes), *counted, strict=True)))


def count_labels(truth: Mask, raw: Mask, label: npt.NDArray[np.float32], num_classes: int) -> AuditCounts:
    """Counts `raw`, `kept` and `raw_kept` of one image; the others are 0.

    truth: uint8 [H, W], class index or IGNORE_INDEX (void)
    raw:   uint8 [H, W], most probable class
    label: float32 [H, W], class index, NaN = abstain
    """
    valid = truth != IGNORE_INDEX
    kept = valid & ~np.isnan(label)
    return no_counts(num_classes)._replace(
        raw=confusion(truth[valid], raw[valid], num_classes),
        kept=confusion(truth[kept], label[kept], num_classes),
        raw_kept=confusion(truth[kept], raw[kept], num_classes),
    )


def count_covered(score: npt.NDArray[np.float32], q_hat: npt.NDArray[np.float32], num_classes: int) -> AuditCounts:
    """Counts `scored`, `covered` and `uncalibrated` of one image; the others are 0.

    A pixel is covered, i.e. its true class is in the prediction set, if 1 - P(true class) <= q.

    score: float32 [H, W], 1 - P(true class), NaN = void
    q_hat: float32 [H, W], threshold (`own_thresholds`); infinite or NaN = no finite threshold
    """
    valid, calibrated = ~np.isnan(score), np.isfinite(q_hat)
    covered = valid & ((score <= q_hat) | ~calibrated)
    return no_counts(num_classes)._replace(
        scored=int(np.count_nonzero(valid)),
        covered=int(np.count_nonzero(covered)),
        uncalibrated=int(np.count_nonzero(valid & ~calibrated)),
    )


def own_thresholds(q_hat: npt.NDArray[np.float32], truth: Mask) -> npt.NDArray[np.float32]:
    """Threshold with which each pixel's score is compared.

    q_hat:   float32 [H, W], one for all classes, or [K, H, W], one for each class
    truth:   uint8 [H, W], class index or IGNORE_INDEX (void)
    returns: float32 [H, W], that of the true class; any number where the pixel is void
    """
    if q_hat.ndim == 2:
        return q_hat
    index = np.where(truth == IGNORE_INDEX, 0, truth)[np.newaxis].astype(np.intp)
    return np.take_along_axis(q_hat, index, axis=0)[0]


def confusion(truth: npt.NDArray[np.generic], predicted: npt.NDArray[np.generic], num_classes: int) -> Counts:
    """int64 [K, K], pixels by class: rows = true class, columns = predicted class.

    truth, predicted: class indices [N]
    """
    cells = truth.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def summarise(counts: AuditCounts, class_names: Sequence[str]) -> dict[str, Any]:
    """Measures in [0, 1] of the counts, as JSON types for the receipt; None where no pixel was counted.

    In `kept`, iou and precision are over labeled pixels only. recall and keep_rate are over all pixels of a true class:
    there a pixel without a label counts as missed. raw_miou and raw_accuracy are those of the annotator's argmax on the
    labeled pixels.
    """
    pixels, labeled = counts.raw.sum(axis=1), counts.kept.sum(axis=1)
    raw, kept = class_measures(counts.raw, pixels), class_measures(counts.kept, pixels)
    per_class = {
        name: {
            "pixels": int(pixels[k]),
            "keep_rate": _fact(_fraction(labeled[k], pixels[k])),
            "raw": {measure: _fact(values[k]) for measure, values in raw.items()},
            "kept": {measure: _fact(values[k]) for measure, values in kept.items()},
        }
        for k, name in enumerate(class_names)
    }
    return {
        "pixels": int(pixels.sum()),
        "raw": {"miou": mean_iou(raw["iou"]), "pixel_accuracy": accuracy(counts.raw)},
        "kept": {
            "miou": mean_iou(kept["iou"]),
            "precision": accuracy(counts.kept),
            "keep_rate": _fact(_fraction(labeled.sum(), pixels.sum())),
            "raw_miou": mean_iou(class_measures(counts.raw_kept, pixels)["iou"]),
            "raw_accuracy": accuracy(counts.raw_kept),
        },
        "coverage": coverage(counts),
        "classes": per_class,
    }


def class_measures(table: Counts, pixels: Counts) -> dict[str, npt.NDArray[np.float64]]:
    """Precision, recall and IoU of each class, float64 [K], NaN where no pixel was counted.

    table:  int64 [K, K], rows = true class, columns = predicted class
    pixels: int64 [K], all pixels of each true class, by which recall is divided
    """
    right = np.diag(table)
    predicted, true = table.sum(axis=0), table.sum(axis=1)
    return {
        "precision": _fraction(right, predicted),
        "recall": _fraction(right, pixels),
        "iou": _fraction(right, predicted + true - right),
    }


def coverage(counts: AuditCounts) -> dict[str, float | None]:
    """Coverage in [0, 1] of all pixels, and of those with a finite threshold; None where no pixel was counted."""
    calibrated = counts.scored - counts.uncalibrated
    return {
        "coverage": _fact(_fraction(counts.covered, counts.scored)),
        "calibrated": _fact(_fraction(counts.covered - counts.uncalibrated, calibrated)),
        "uncalibrated_fraction": _fact(_fraction(counts.uncalibrated, counts.scored)),
    }


def accuracy(table: Counts) -> float | None:
    """Fraction of the counted pixels whose class is right; None if none was counted. table: int64 [K, K]."""
    return _fact(_fraction(np.trace(table), table.sum()))


def mean_iou(iou: npt.NDArray[np.float64]) -> float | None:
    """Mean IoU of the classes that are not NaN, i.e. true or predicted somewhere; None if there is none."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else None


def _fraction(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`part` / `whole`, NaN where `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    fraction: npt.NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return fraction


def _fact(value: npt.ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return None if np.isnan(number) else number

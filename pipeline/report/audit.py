"""How right are the labels? Counts against masks of unlabeled images, which nothing but the report looks at.

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
    """Pixels with a true class (void is never counted); counts of several images add up field by field.

    raw:          int64 [K, K], rows = true class, columns = most probable class
    kept:         int64 [K, K], the same of the pixels with a pseudo-label, columns = pseudo-label
    raw_kept:     int64 [K, K], of these pixels, columns = most probable class; it is `kept` unless the background was
                  overruled
    scored:       pixels whose probabilities are known; the next two are among them
    covered:      their true class is in the prediction set (at a location without a threshold the set is everything)
    uncalibrated: at a location without a finite threshold
    """

    raw: Counts
    kept: Counts
    raw_kept: Counts
    scored: int
    covered: int
    uncalibrated: int


def no_counts(num_classes: int) -> AuditCounts:
    """Counts of no image."""
    zeros = np.zeros((num_classes, num_classes), np.int64)
    return AuditCounts(zeros, zeros, zeros, 0, 0, 0)


def total(parts: Iterable[AuditCounts], num_classes: int) -> AuditCounts:
    """Add up the counts of several images, or of several parts of one."""
    return AuditCounts(*(sum(counts[1:], counts[0]) for counts in zip(no_counts(num_classes), *parts, strict=True)))


def count_labels(truth: Mask, raw: Mask, label: npt.NDArray[np.float32], num_classes: int) -> AuditCounts:
    """Count one image's labels; nothing is scored yet.

    truth: uint8 [H, W], class index or 255 (void)
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
    """Count where the prediction set holds the true class: 1 - P(true class) <= q.

    score: float32 [H, W], 1 - P(true class), NaN = void
    q_hat: float32 [H, W], threshold (`own_thresholds`); infinite or NaN where there is none
    """
    valid, calibrated = ~np.isnan(score), np.isfinite(q_hat)
    covered = valid & ((score <= q_hat) | ~calibrated)
    return no_counts(num_classes)._replace(
        scored=int(np.count_nonzero(valid)),
        covered=int(np.count_nonzero(covered)),
        uncalibrated=int(np.count_nonzero(valid & ~calibrated)),
    )


def own_thresholds(q_hat: npt.NDArray[np.float32], truth: Mask) -> npt.NDArray[np.float32]:
    """The threshold that each pixel's score is compared with: float32 [H, W].

    q_hat: float32 [H, W], one for all classes, or [K, H, W], of which a pixel takes its true class's
    truth: uint8 [H, W], class index or 255 (void; what stands there then does not matter)
    """
    if q_hat.ndim == 2:
        return q_hat
    index = np.where(truth == IGNORE_INDEX, 0, truth)[np.newaxis].astype(np.intp)
    return np.take_along_axis(q_hat, index, axis=0)[0]


def confusion(truth: npt.NDArray[np.generic], predicted: npt.NDArray[np.generic], num_classes: int) -> Counts:
    """int64 [K, K] pixel counts of class indices [n], rows = true class, columns = predicted class."""
    cells = truth.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def summarise(counts: AuditCounts, class_names: Sequence[str]) -> dict[str, Any]:
    """Shares of the counts, as they go into the receipt; None where nothing was counted.

    Of `kept`, iou and precision are those of its pixels alone; recall and keep_rate are shares of all pixels of a true
    class, so that abstaining is not free: a pixel without a label is one that was not found. raw_miou and raw_accuracy
    are those of the annotator on the kept pixels.
    """
    pixels, labeled = counts.raw.sum(axis=1), counts.kept.sum(axis=1)
    raw, kept = class_shares(counts.raw, pixels), class_shares(counts.kept, pixels)
    per_class = {
        name: {
            "pixels": int(pixels[k]),
            "keep_rate": _fact(_share(labeled[k], pixels[k])),
            "raw": {what: _fact(shares[k]) for what, shares in raw.items()},
            "kept": {what: _fact(shares[k]) for what, shares in kept.items()},
        }
        for k, name in enumerate(class_names)
    }
    return {
        "pixels": int(pixels.sum()),
        "raw": {"miou": mean_iou(raw["iou"]), "pixel_accuracy": accuracy(counts.raw)},
        "kept": {
            "miou": mean_iou(kept["iou"]),
            "precision": accuracy(counts.kept),
            "keep_rate": _fact(_share(labeled.sum(), pixels.sum())),
            "raw_miou": mean_iou(class_shares(counts.raw_kept, pixels)["iou"]),
            "raw_accuracy": accuracy(counts.raw_kept),
        },
        "coverage": coverage(counts),
        "classes": per_class,
    }


def class_shares(table: Counts, pixels: Counts) -> dict[str, npt.NDArray[np.float64]]:
    """Precision, recall (of all `pixels` [K] of a class) and IoU (within the table) of each class, float64 [K]."""
    right = np.diag(table)
    labeled, found = table.sum(axis=0), table.sum(axis=1)
    return {
        "precision": _share(right, labeled),
        "recall": _share(right, pixels),
        "iou": _share(right, labeled + found - right),
    }


def coverage(counts: AuditCounts) -> dict[str, float | None]:
    """Coverage of the prediction sets: of all pixels, and of those whose location has a threshold."""
    calibrated = counts.scored - counts.uncalibrated
    return {
        "coverage": _fact(_share(counts.covered, counts.scored)),
        "calibrated": _fact(_share(counts.covered - counts.uncalibrated, calibrated)),
        "uncalibrated_fraction": _fact(_share(counts.uncalibrated, counts.scored)),
    }


def accuracy(table: Counts) -> float | None:
    """Share of the counted pixels whose class is right; None if none was counted."""
    return _fact(_share(np.trace(table), table.sum()))


def mean_iou(iou: npt.NDArray[np.float64]) -> float | None:
    """Mean over the classes that are there or predicted (the others are NaN); None if there is none."""
    present = iou[~np.isnan(iou)]
    return float(present.mean()) if present.size else None


def _share(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    share: npt.NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return share


def _fact(value: npt.ArrayLike) -> float | None:
    number = float(np.asarray(value))
    return None if np.isnan(number) else number

"""Confusion matrix, IoU of each class, mIoU with its confidence interval, and pixel accuracy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import calib
from pipeline.datasets import IGNORE_INDEX

Confusion = npt.NDArray[np.int64]
Absent = Literal["skip", "zero"]
NUM_RESAMPLINGS = 1000


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixel counts by true class (rows) and predicted class (columns).

    On a GPU the host does not wait for the result. On a CPU this takes a quarter of the time of a selection followed by
    a bincount.

    prediction: integer [...], class index
    target:     integer [...], class index or IGNORE_INDEX (not counted)
    returns:    int64 [K, K]
    """
    num_cells = num_classes**2
    cells = target.long() * num_classes + prediction.long()
    cells = cells.masked_fill_(target == IGNORE_INDEX, num_cells).flatten()  # an extra cell for void
    counts = torch.zeros(num_cells + 1, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, cells, torch.ones_like(cells))[:-1].reshape(num_classes, num_classes)


def class_areas(confusion: Tensor) -> Tensor:
    """Correctly predicted, true and predicted pixels of each class: confusion int64 [K, K] -> int64 [3, K]."""
    return torch.stack([confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)])


def iou_per_class(confusion: Confusion) -> npt.NDArray[np.float64]:
    """IoU of each class: int64 [K, K] -> float64 [K]; NaN for a class that is neither in the masks nor predicted."""
    return iou_of_areas(np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)]))


def iou_of_areas(areas: npt.NDArray[np.integer | np.floating]) -> npt.NDArray[np.float64]:
    """IoU from `class_areas`: [3, ...] -> float64 [...]; NaN for a class neither in the masks nor predicted."""
    correct, true, predicted = areas.astype(np.float64)
    union = true + predicted - correct
    iou = np.full(correct.shape, np.nan)
    np.divide(correct, union, out=iou, where=union > 0)
    return iou


def mean_iou(confusion: Confusion, absent: Absent = "skip") -> float:
    """Mean IoU over the classes, in [0, 1]; NaN if no pixel was counted.

    absent: skip omits classes that are neither in the masks nor predicted; zero counts their IoU as 0
    """
    return float(mean_over_classes(iou_per_class(confusion), absent)) if confusion.any() else float("nan")


def mean_over_classes(iou: npt.NDArray[np.float64], absent: Absent) -> npt.NDArray[np.float64]:
    """Mean over the classes: float64 [..., K], NaN for absent classes, at least one not absent -> float64 [...]."""
    mean: npt.NDArray[np.float64] = np.nan_to_num(iou).mean(axis=-1) if absent == "zero" else np.nanmean(iou, axis=-1)
    return mean


def miou_interval(
    areas: npt.NDArray[np.int64], absent: Absent, seed: int, unit_of_image: npt.NDArray[np.integer] | None = None
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of mIoU, low and high end; None for fewer than two units with a counted pixel.

    Whole units are resampled, NUM_RESAMPLINGS times.

    areas:         int64 [N, 3, K], `class_areas` of each image
    absent:        as in `mean_iou`
    unit_of_image: integer [N] (`calib.units`); default: each image is its own unit
    """
    is_counted = areas[:, 1].sum(axis=1) > 0
    counted = areas[is_counted].astype(np.float64)  # exact up to 2^53 pixels
    units = (calib.each_alone(len(areas)) if unit_of_image is None else unit_of_image)[is_counted]
    if calib.num_units(units) < 2:
        return None
    draws = calib.bootstrap_weights(units, NUM_RESAMPLINGS, np.random.default_rng(seed))
    iou = iou_of_areas(np.tensordot(draws, counted, axes=1).swapaxes(0, 1))  # [resampling, K]
    low, high = np.quantile(mean_over_classes(iou, absent), [0.025, 0.975])
    return float(low), float(high)


def pixel_accuracy(confusion: Confusion) -> float:
    """Fraction of the counted pixels whose class is correct; NaN if none was counted."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")

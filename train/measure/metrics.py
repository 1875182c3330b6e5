"""Confusion matrix and what is read from it: IoU of each class, mIoU and how sure it is, pixel accuracy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.datasets import IGNORE_INDEX

Confusion = npt.NDArray[np.int64]
Absent = Literal["skip", "zero"]
NUM_RESAMPLINGS = 1000


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """int64 [K, K] pixel counts, rows = true class, columns = predicted class.

    On a GPU nothing waits for the result, and on a CPU it takes a quarter of the time of a selection and a bincount.

    prediction: integer [...], class index
    target:     integer [...], class index or IGNORE_INDEX (not counted)
    """
    num_cells = num_classes**2
    cells = target.long() * num_classes + prediction.long()
    cells = cells.masked_fill_(target == IGNORE_INDEX, num_cells).flatten()  # void has a cell of its own
    counts = torch.zeros(num_cells + 1, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, cells, torch.ones_like(cells))[:-1].reshape(num_classes, num_classes)


def class_areas(confusion: Tensor) -> Tensor:
    """int64 [K, K] -> int64 [3, K], pixels rightly predicted to be a class, pixels that are it, pixels predicted so."""
    return torch.stack([confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)])


def iou_per_class(confusion: Confusion) -> npt.NDArray[np.float64]:
    """float64 [K], intersection over union in all images together; NaN for a class neither there nor predicted."""
    return iou_of_areas(np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)]))


def iou_of_areas(areas: npt.NDArray[np.integer | np.floating]) -> npt.NDArray[np.float64]:
    """[3, ...] as `class_areas` -> float64 [...]; NaN for a class neither there nor predicted."""
    right, true, predicted = areas.astype(np.float64)
    union = true + predicted - right
    iou = np.full(right.shape, np.nan)
    np.divide(right, union, out=iou, where=union > 0)
    return iou


def mean_iou(confusion: Confusion, absent: Absent = "skip") -> float:
    """Mean IoU over the classes; NaN if no pixel was counted.

    absent: skip leaves classes that are neither there nor predicted out of the mean, zero counts them as 0
    """
    return float(mean_over_classes(iou_per_class(confusion), absent)) if confusion.any() else float("nan")


def mean_over_classes(iou: npt.NDArray[np.float64], absent: Absent) -> npt.NDArray[np.float64]:
    """float64 [..., K] with NaN for absent classes, at least one of them not absent -> [...]."""
    mean: npt.NDArray[np.float64] = np.nan_to_num(iou).mean(axis=-1) if absent == "zero" else np.nanmean(iou, axis=-1)
    return mean


def miou_interval(areas: npt.NDArray[np.int64], absent: Absent, seed: int) -> tuple[float, float] | None:
    """Ends of the 95 % interval of mIoU by resampling whole images; None for fewer than two with a counted pixel.

    areas: int64 [N, 3, K], `class_areas` of each image
    """
    counted = areas[areas[:, 1].sum(axis=1) > 0].astype(np.float64)  # float64 is exact up to 2^53 pixels
    num = len(counted)
    if num < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), NUM_RESAMPLINGS)
    iou = iou_of_areas(np.tensordot(draws, counted, axes=1).swapaxes(0, 1))  # [resampling, K]
    low, high = np.quantile(mean_over_classes(iou, absent), [0.025, 0.975])
    return float(low), float(high)


def pixel_accuracy(confusion: Confusion) -> float:
    """Share of the counted pixels whose class is right; NaN if none was counted."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")

"""Confusion matrix and what is read from it: IoU of each class, mIoU, pixel accuracy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.datasets import IGNORE_INDEX

Confusion = npt.NDArray[np.int64]


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """int64 [K, K] pixel counts, rows = true class, columns = predicted class.

    prediction: integer [...], class index
    target:     integer [...], class index or IGNORE_INDEX (not counted)
    """
    valid = target != IGNORE_INDEX
    cells = target[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(confusion: Confusion) -> npt.NDArray[np.float64]:
    """float64 [K], intersection over union in all images together; NaN for a class neither there nor predicted."""
    intersection = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    iou = np.full(len(confusion), np.nan)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def mean_iou(confusion: Confusion) -> float:
    """Mean IoU of the classes that are there or predicted; NaN if no pixel was counted."""
    iou = iou_per_class(confusion)
    return float(np.nanmean(iou)) if confusion.any() else float("nan")


def pixel_accuracy(confusion: Confusion) -> float:
    """Share of the counted pixels whose class is right; NaN if none was counted."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")

"""Boundary F-score: how close the outlines of the predicted classes are to the true ones.

After Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013), with the tolerance of
DAVIS (Perazzi et al., CVPR 2016).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from pipeline.datasets import IGNORE_INDEX

Mask = npt.NDArray[np.uint8]
Points = npt.NDArray[np.intp]


def boundary_scores(truth: Mask, prediction: Mask, num_classes: int, tolerance: float) -> npt.NDArray[np.float64]:
    """float64 [3, K], precision, recall and F of each class; NaN for a class without a boundary in either.

    Precision is the share of a class's predicted boundary pixels that lie within the tolerance of its true ones, recall
    the converse. A boundary that is there in one of the two only has F = 0; the share of no pixels is 1, as in DAVIS.
    Void has no boundary, in the prediction neither, once its rims are closed (`without_rims`).

    truth:      uint8 [H, W], class index or IGNORE_INDEX
    prediction: uint8 [H, W], class index
    tolerance:  in parts of the image's diagonal, rounded up to whole pixels
    """
    pixels = math.ceil(tolerance * math.hypot(*truth.shape))
    truth = without_rims(truth, pixels)
    prediction = np.where(truth == IGNORE_INDEX, np.uint8(IGNORE_INDEX), prediction)
    true_points, predicted_points = (boundary_points(mask, num_classes) for mask in (truth, prediction))
    scores = np.full((3, num_classes), np.nan)
    for k, (true, predicted) in enumerate(zip(true_points, predicted_points, strict=True)):
        if len(true) or len(predicted):
            precision, recall = share_near(predicted, true, pixels), share_near(true, predicted, pixels)
            both = precision + recall
            scores[:, k] = precision, recall, 2 * precision * recall / both if both else 0.0
    return scores


def without_rims(truth: Mask, distance: float) -> Mask:
    """The mask with void that is at most `distance` away from a class given to the nearest one.

    Masks as those of VOC part all classes by rims of void, 5 pixels wide: no class would ever touch another. The rim's
    middle becomes the boundary.
    """
    is_void = truth == IGNORE_INDEX
    if not is_void.any() or is_void.all():
        return truth
    distances, (rows, columns) = distance_transform_edt(is_void, return_indices=True)
    return np.where(distances <= distance, truth[rows, columns], np.uint8(IGNORE_INDEX))


def is_boundary(mask: Mask) -> npt.NDArray[np.bool_]:
    """bool [H, W]: pixels beside (left, right, above or below) a pixel of another class; void is no class."""
    found = np.zeros(mask.shape, bool)
    here: Any
    for here, beside in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (mask[here] != mask[beside]) & (mask[here] != IGNORE_INDEX) & (mask[beside] != IGNORE_INDEX)
        found[here] |= differ
        found[beside] |= differ
    return found


def boundary_points(mask: Mask, num_classes: int) -> list[Points]:
    """For each class the places [P, 2] (row, column) of its boundary pixels."""
    points = np.argwhere(is_boundary(mask))
    classes = mask[points[:, 0], points[:, 1]]
    return [points[classes == k] for k in range(num_classes)]


def share_near(points: Points, others: Points, distance: float) -> float:
    """Share of the points [P, 2] that have one of the others [Q, 2] at most `distance` away; 1 if there are no points.

    By a tree over the others: four times as fast as a distance transform of the image for each class.
    """
    if not len(points):
        return 1.0
    if not len(others):
        return 0.0
    tree = KDTree(others, balanced_tree=False, compact_nodes=False)
    # the bound is exclusive, and squared distances of pixels are whole numbers
    nearest = tree.query(points, distance_upper_bound=distance + 0.5)[0]
    return float(np.mean(nearest <= distance))

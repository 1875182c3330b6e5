"""Boundary F-score: how close the boundaries of the predicted classes are to the true ones.

After Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013), with the tolerance of
DAVIS (Perazzi et al., CVPR 2016).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX

Mask = npt.NDArray[np.uint8]
Points = npt.NDArray[np.intp]


def boundary_scores(truth: Mask, prediction: Mask, num_classes: int, tolerance: float) -> npt.NDArray[np.float64]:
    """Precision, recall and F of the boundary of each class.

    Precision is the fraction of the predicted boundary pixels of a class that lie within the tolerance of its true
    boundary; recall is the fraction of the true boundary pixels within the tolerance of the predicted boundary. A
    fraction of no pixels is 1, as in DAVIS. A class that has a boundary in only one of the two masks has F = 0.
    Narrow rims of void are closed first (`without_rims`). The remaining void has no boundary, in either mask.

    truth:      uint8 [H, W], class index or IGNORE_INDEX
    prediction: uint8 [H, W], class index
    tolerance:  as a fraction of the image's diagonal; rounded up to whole pixels
    returns:    float64 [3, K], precision, recall and F; NaN for a class without a boundary in both masks
    """
    pixels = math.ceil(tolerance * math.hypot(*truth.shape))
    truth = without_rims(truth, pixels)
    prediction = np.where(truth == IGNORE_INDEX, np.uint8(IGNORE_INDEX), prediction)
    true_points, predicted_points = (boundary_points(mask, num_classes) for mask in (truth, prediction))
    scores = np.full((3, num_classes), np.nan)
    for k, (true, predicted) in enumerate(zip(true_points, predicted_points, strict=True)):
        if len(true) or len(predicted):
            precision, recall = fraction_near(predicted, true, pixels), fraction_near(true, predicted, pixels)
            both = precision + recall
            scores[:, k] = precision, recall, 2 * precision * recall / both if both else 0.0
    return scores


def without_rims(truth: Mask, distance: float) -> Mask:
    """The mask in which void pixels at most `distance` pixels away from a class get the nearest class.

    In masks like those of VOC, rims of void, 5 pixels wide, separate all classes, so that no two classes touch. After
    this the boundary runs along the middle of the rim.
    """
    is_void = truth == IGNORE_INDEX
    if not is_void.any() or is_void.all():
        return truth
    from scipy.ndimage import distance_transform_edt  # takes a second: only where boundaries are measured

    distances, (rows, columns) = distance_transform_edt(is_void, return_indices=True)
    return np.where(distances <= distance, truth[rows, columns], np.uint8(IGNORE_INDEX))


def is_boundary(mask: Mask) -> npt.NDArray[np.bool_]:
    """bool [H, W]: pixels with a neighbour (left, right, above or below) of another class; void is not a class."""
    is_edge = np.zeros(mask.shape, bool)
    here: Any
    for here, beside in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (mask[here] != mask[beside]) & (mask[here] != IGNORE_INDEX) & (mask[beside] != IGNORE_INDEX)
        is_edge[here] |= differ
        is_edge[beside] |= differ
    return is_edge


def boundary_points(mask: Mask, num_classes: int) -> list[Points]:
    """For each class its boundary pixels: intp [P, 2], row and column."""
    points = np.argwhere(is_boundary(mask))
    classes = mask[points[:, 0], points[:, 1]]
    return [points[classes == k] for k in range(num_classes)]


def fraction_near(points: Points, others: Points, distance: float) -> float:
    """Fraction of the points [P, 2] that have one of the others [Q, 2] at most `distance` away; 1 without points.

    A tree over the others is four times as fast as a distance transform of the image for each class.
    """
    if not len(points):
        return 1.0
    if not len(others):
        return 0.0
    from scipy.spatial import KDTree

    tree = KDTree(others, balanced_tree=False, compact_nodes=False)
    # The upper bound is exclusive; adding 0.5 keeps points at exactly `distance`.
    nearest = tree.query(points, distance_upper_bound=distance + 0.5)[0]
    return float(np.mean(nearest <= distance))

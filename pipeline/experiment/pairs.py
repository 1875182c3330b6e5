"""Confidence intervals of the difference between two rows, from paired resampling of val images and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import calib

Areas = npt.NDArray[np.int64]
NUM_RESAMPLINGS = 2000


class Difference(NamedTuple):
    """Mean over the seeds of a difference of mIoU, and the ends of its 95 % interval; fractions."""

    value: float
    low: float
    high: float


def difference(
    row: Sequence[Areas],
    reference: Sequence[Areas],
    absent: Literal["skip", "zero"],
    seed: int = 0,
    unit_of_image: npt.NDArray[np.integer] | None = None,
) -> Difference | None:
    """mIoU of a row minus that of a reference; None if fewer than two val images, or units, have a counted pixel.

    Units of images (`calib.units`) and seeds are drawn with replacement. An image is drawn for both rows and all seeds
    at once: a hard image is hard for both rows, so the interval is narrower than those of the two mIoUs.

    row, reference: for each seed int64 [N, 3, K], pixels of each image and class: correctly predicted, true, and
                    predicted (evaluate/areas.npz)
    absent:         IoU of a class that is neither true nor predicted, as `evaluate.absent`
    seed:           of the resampling
    unit_of_image:  integer [N]; default: each image is its own unit
    """
    counted = row[0][:, 1].sum(axis=1) > 0
    units = (calib.each_alone(len(counted)) if unit_of_image is None else unit_of_image)[counted]
    if calib.num_units(units) < 2:
        return None
    rng = np.random.default_rng(seed)
    images = calib.bootstrap_weights(units, NUM_RESAMPLINGS, rng)
    whole = np.ones((1, len(units)))
    gaps = [[_miou(one[counted], w, absent) - _miou(other[counted], w, absent) for w in (whole, images)]
            for one, other in zip(row, reference, strict=True)]  # fmt: skip
    value = float(np.mean([gap[0] for gap in gaps]))
    by_seed = np.stack([gap[1] for gap in gaps])  # [S, R]
    drawn = rng.integers(len(gaps), size=by_seed.shape)
    low, high = np.quantile(np.take_along_axis(by_seed, drawn, axis=0).mean(axis=0), [0.025, 0.975])
    return Difference(value, float(low), float(high))


def _miou(areas: Areas, weights: npt.NDArray[np.float64], absent: str) -> npt.NDArray[np.float64]:
    """float64 [R] of areas [N, 3, K] and weights [R, N], how often each image is drawn."""
    right, true, predicted = np.tensordot(weights, areas.astype(np.float64), axes=1).swapaxes(0, 1)  # [R, K] each
    union = true + predicted - right
    iou = np.divide(right, union, out=np.full(union.shape, np.nan), where=union > 0)
    mean: npt.NDArray[np.float64] = np.nan_to_num(iou).mean(axis=1) if absent == "zero" else np.nanmean(iou, axis=1)
    return mean

"""The thresholds of every stop, as reduced maps and as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import resize_nearest
from pipeline.gallery.labeled_run import Stops
from pipeline.gallery.packing import pack, shown_size
from pipeline.palette import css, scale_colours
from pipeline.settings import CalibrateSettings

STEPS = 253  # code of the threshold 1 in a map; higher codes stand for thresholds that are not finite
INFINITE, NONE = 254, 255
SPREAD = (np.min, np.median, np.max)


def threshold_facts(stops: Stops, calibrate: CalibrateSettings, longest: int) -> dict[str, Any]:
    """Data of the page, as JSON types: maps of the thresholds (see `coded`) and of their labeled images, and numbers.

    longest: pixels of the longer side of the maps; numbers are computed at full size
    """
    size = shown_size(stops.q.shape[1:], longest)
    finite = [q[np.isfinite(q)] for q in stops.q]
    return {
        "size": list(size),
        "isFlat": is_flat(stops),
        "q": pack(coded(resize_nearest(stops.q, size))),
        "valid": pack(resize_nearest(stops.n_valid, size).astype("<i4")),
        "validRange": [int(stops.n_valid.min()), int(stops.n_valid.max())],
        "spread": [[round(float(f(q)), 4) for f in SPREAD] if q.size else None for q in finite],
        "tooFew": [round(fraction, 5) for fraction in too_few(stops, calibrate)],
        "uncalibrated": calibrate.uncalibrated,
        "scale": [css(colour) for colour in scale_colours()],
    }


def is_flat(stops: Stops) -> bool:
    """Whether all locations have the same thresholds from as many images, so that a map is not needed."""
    corner = np.broadcast_to(stops.q[:, :1, :1], stops.q.shape)
    return bool(np.array_equal(stops.q, corner, equal_nan=True) and stops.n_valid.min() == stops.n_valid.max())


def coded(q: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """uint8 like q, float32: 0 to STEPS for thresholds from 0 to 1, INFINITE for infinity, NONE for NaN."""
    codes = np.rint(np.clip(np.where(np.isfinite(q), q, 0), 0, 1) * STEPS)
    codes = np.where(np.isnan(q), NONE, np.where(np.isposinf(q), INFINITE, codes))
    return codes.astype(np.uint8)


def too_few(stops: Stops, calibrate: CalibrateSettings) -> list[float]:
    """For each stop, the fraction of the locations that have too few labeled images for its alpha."""
    infinite = np.isposinf(stops.q)
    if calibrate.uncalibrated == "max" and calibrate.quantile == "exact":  # the largest score replaces infinity
        n = stops.n_valid
        infinite = np.stack([(calib.conformal_rank(n, alpha) > n) & (n > 0) for alpha in stops.alphas])
    fractions: list[float] = infinite.mean(axis=(1, 2)).tolist()
    return fractions

"""The thresholds of every stop, as maps small enough to be embedded and as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import resize_nearest
from pipeline.gallery.packing import pack, shown_size
from pipeline.gallery.source import Stops
from pipeline.palette import css, scale_colours
from pipeline.settings import CalibrateSettings

STEPS = 253  # of the scale from 0 to 1 in a map; the codes above mean that there is no number
INFINITE, NONE = 254, 255
SPREAD = (np.min, np.median, np.max)


def threshold_facts(stops: Stops, calibrate: CalibrateSettings, longest: int) -> dict[str, Any]:
    """Maps of q-hat (a code a location, see `coded`) and of the images behind it, reduced; numbers are of all of it."""
    size = shown_size(stops.q.shape[1:], longest)
    finite = [q[np.isfinite(q)] for q in stops.q]
    return {
        "size": list(size),
        "isFlat": is_flat(stops),
        "q": pack(coded(resize_nearest(stops.q, size))),
        "valid": pack(resize_nearest(stops.n_valid, size).astype("<i4")),
        "validRange": [int(stops.n_valid.min()), int(stops.n_valid.max())],
        "spread": [[round(float(f(q)), 4) for f in SPREAD] if q.size else None for q in finite],
        "tooFew": [round(share, 5) for share in too_few(stops, calibrate)],
        "uncalibrated": calibrate.uncalibrated,
        "scale": [css(colour) for colour in scale_colours()],
    }


def is_flat(stops: Stops) -> bool:
    """Are thresholds, and the images behind them, the same at all locations? Then numbers say more than a map."""
    corner = np.broadcast_to(stops.q[:, :1, :1], stops.q.shape)
    return bool(np.array_equal(stops.q, corner, equal_nan=True) and stops.n_valid.min() == stops.n_valid.max())


def coded(q: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """uint8 like q: 0 to STEPS for thresholds from 0 to 1, INFINITE, NONE for NaN."""
    codes = np.rint(np.clip(np.where(np.isfinite(q), q, 0), 0, 1) * STEPS)
    codes = np.where(np.isnan(q), NONE, np.where(np.isposinf(q), INFINITE, codes))
    return codes.astype(np.uint8)


def too_few(stops: Stops, calibrate: CalibrateSettings) -> list[float]:
    """For each stop, the share of the locations whose labeled images are too few for its alpha."""
    infinite = np.isposinf(stops.q)
    if calibrate.uncalibrated == "max" and calibrate.quantile == "exact":  # the largest score stands there instead
        n = stops.n_valid
        infinite = np.stack([(calib.conformal_rank(n, alpha) > n) & (n > 0) for alpha in stops.alphas])
    shares: list[float] = infinite.mean(axis=(1, 2)).tolist()
    return shares

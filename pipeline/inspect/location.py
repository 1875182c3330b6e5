"""Thresholds of one location at any alphas, as `calibrate` would compute them from the same scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from calib import regions
from calib.variants import CELLS
from pipeline.calibration.folds import variant_of
from pipeline.calibration.stored_maps import StoredMaps
from pipeline.inspect.decision import unrefused
from pipeline.settings import Settings
from pipeline.store import CalibrationStore

STEP = 0.005  # between alphas; one pass over the labeled images computes the thresholds for all of them
STEP_OF_LOCATION = 0.001  # if the scores of a single location are enough

Floats = npt.NDArray[np.float32]


class Fitted(NamedTuple):
    """Thresholds of a pooled variant at a list of alphas, float32 [T, C, R] in `thresholds.q`."""

    alphas: list[float]
    thresholds: calib.Thresholds

    def at(self, row: int, column: int) -> Floats:
        """float32 [T], or [T, K] class-wise."""
        q: Floats = self.thresholds.q[:, :, self.thresholds.region[row, column]]
        return q if self.thresholds.is_class_wise else q[:, 0]


def alpha_list(step: float, *others: float) -> list[float]:
    """Multiples of `step` in (0, 1), and some others, in ascending order."""
    return sorted({*(round(i * step, 3) for i in range(1, round(1 / step))), *others})


def fit_pooled(settings: Settings, calibration: CalibrationStore, images: Sequence[int], alphas: list[float]) -> Fitted:
    """Thresholds of a variant that pools pixels, from all labeled images.

    Variant risk has no threshold below the smallest alpha that it can guarantee. Classes are clustered at the largest
    alpha, so with clusters the list ends with the largest alpha of the store.
    """
    if settings.calibrate.class_thresholds == "clustered":
        alphas = [alpha for alpha in alphas if alpha <= max(calibration.alphas)]
    maps = StoredMaps(calibration.handle, list(images), calibration.grid, settings.compute)
    while True:
        try:
            thresholds = calib.fit(variant_of(settings, alphas), maps, np.zeros(len(images), np.int64))[0]
        except calib.CalibrationError:  # variant risk cannot guarantee the smallest alpha
            alphas = alphas[1:]
        else:
            return Fitted(alphas, thresholds.resolve(unrefused(settings.calibrate.uncalibrated)))


def own_thresholds(scores: Floats, alphas: Sequence[float], settings: Settings) -> Floats:
    """float32 [T]: thresholds of a location from its own scores. scores: float32 [n], no NaN"""
    sketch = calib.sketch_scores(scores.reshape(-1, 1, 1), max(1, len(scores)))  # of all scores
    method = settings.calibrate.quantile
    q = np.array([calib.sketch_quantile(sketch, alpha, method)[0, 0] for alpha in alphas], np.float32)
    largest = np.array([scores.max() if len(scores) else np.nan], np.float32)
    policy = unrefused(settings.calibrate.uncalibrated)
    return calib.resolve_uncalibrated(q, largest, np.array([len(scores)]), policy)


def fallback_thresholds(
    settings: Settings,
    calibration: CalibrationStore,
    images: Sequence[int],
    location: tuple[int, int],
    alphas: list[float],
) -> Floats:
    """float32 [T]: thresholds of a location with fewer than n_min scores, from its cell or the whole image, pooled."""
    shape = calibration.grid
    cells = regions.cells(shape, max(1, shape[0] // CELLS))
    if settings.calibrate.fallback == "image":
        cells = regions.one_region(shape)
    rows, columns = (slice(axis.min(), axis.max() + 1) for axis in np.nonzero(cells == cells[location]))
    maps = {
        name: np.stack([calibration.read_chunk(name, image)[rows, columns] for image in images])
        for name in ("score", "truth")
    }
    pooled = variant_of(settings, alphas)
    variant = calib.Variant("image", pooled.alphas, pooled.quantile, pooled.pooling)
    thresholds = calib.fit(variant, calib.ArrayMaps(maps), np.zeros(len(images), np.int64))[0]
    return thresholds.resolve(unrefused(settings.calibrate.uncalibrated)).q[:, 0, 0]

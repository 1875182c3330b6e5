"""Thresholds of many alphas at once, and estimates of their labels on held-out labeled images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.cross_fitting import fit, fit_and_judge
from pipeline.calibration.rows import Fact
from pipeline.lock import only_writer
from pipeline.receipt import fingerprint
from pipeline.record import is_whole, read_record, write_record
from pipeline.run import CHOSEN_LATER, Run
from pipeline.settings import Settings
from pipeline.store import CalibrationStore, ProbabilityStore

log = logging.getLogger(__name__)

VERSION = 2  # raise it when the same calibration would give other rows
STEPS = ((0.005, 0.1, 0.005), (0.11, 0.3, 0.01), (0.32, 0.6, 0.02), (0.65, 0.95, 0.05))  # first, last, step


class Sweep(NamedTuple):
    """The calibration of a run at many alphas.

    alphas:     ordered so that no threshold rises from one alpha to the next: ascending, but descending for variants
                risk and precision_*, where alpha bounds wrong labels. A threshold of precision_* can still rise: every
                alpha has its own tests
    thresholds: from all labeled images, one map per alpha, as `calibrate` computes them
    n_valid:    int64 [H, W] or [K, H, W], number of labeled images behind each threshold
    held_out:   `num_images`, `num_groups`, `folds`, `raw` and `rows` (one row per alpha and rule), as in the receipt of
                calibrate; None with a single labeled image or group
    """

    alphas: tuple[float, ...]
    thresholds: calib.Thresholds
    n_valid: npt.NDArray[np.int64]
    held_out: Fact | None

    @property
    def rows(self) -> list[Fact]:
        return self.held_out["rows"] if self.held_out else []


def sweep_run(settings: Settings, variant: str | None = None) -> Sweep:
    """Compute thresholds at all alphas of the sweep, and judge them. The held-out rows are cached in `sweep.json`.

    variant: one of the calibrated variants; default: `calibrate.variant`
    raises:  StoreError if the run is not calibrated, or was calibrated with other settings; BusyError while another
             process judges the alphas or calibrates
    """
    store = calibrated_store(settings)
    settings = settings.of_variant(variant or settings.calibrate.variant)
    alphas = swept_alphas(settings, store)
    policy = _policy(settings)
    path = Run(settings).folder.sweep
    key = fingerprint({"version": VERSION, "calibration": store.fingerprint, "alphas": alphas})
    cached = cached_rows(path).get(settings.calibrate.variant, {})
    if cached.get("fingerprint") != key:
        with only_writer(settings.folder, "sweep"):
            log.info("sweep: judging %d alphas on held-out images, once; the results are kept in %s", len(alphas), path)
            maps = _maps_to_judge_on(settings, store)
            judged = {settings.calibrate.variant: alphas}
            (calibrated,) = fit_and_judge(settings, alphas, policy, store, maps, judged).values()
            cached = {"fingerprint": key, "held_out": calibrated.held_out()}
            write_record(path, cached_rows(path) | {settings.calibrate.variant: cached})
        thresholds = calibrated.thresholds
    else:
        thresholds = fit(settings, alphas, policy, store)
    return Sweep(tuple(alphas), thresholds, thresholds.images_behind(), cached["held_out"])


def cached_rows(path: Path) -> dict[str, Fact]:
    """Variant -> fingerprint and held-out rows of its sweep; {} before the first, and of a damaged file."""
    return read_record(path, "this command again") if is_whole(path) else {}


def calibrated_store(settings: Settings) -> CalibrationStore:
    """The finished calibration of a run; StoreError if other settings than these made it (the alphas may differ)."""
    return Run(settings).open_calibration(free=CHOSEN_LATER)


def swept_alphas(settings: Settings, store: CalibrationStore) -> list[float]:
    """The alphas of a sweep, from the most labels to the fewest: those of STEPS and those of the store.

    For class-wise thresholds only the store's alphas are swept, because the clusters of classes depend on the alphas.
    The same holds for variant fixed, whose threshold is the same at all alphas.
    """
    if store.is_class_wise or settings.calibrate.kind.bounds == "nothing":
        return sorted(store.alphas)
    steps = {round(first + i * step, 3) for first, last, step in STEPS for i in range(round((last - first) / step) + 1)}
    alphas = sorted(steps | set(store.alphas))
    if settings.calibrate.kind.bounds == "precision":
        return alphas[::-1]
    if settings.calibrate.kind.bounds != "wrong labels":
        return alphas
    smallest = calib.smallest_alpha(int(store.n_valid.max()))  # no threshold keeps the bound at a smaller alpha
    return sorted((alpha for alpha in alphas if alpha >= smallest), reverse=True)


def _policy(settings: Settings) -> calib.Policy:
    """The policy of the settings; under "raise", a sweep labels nothing at an alpha that calibrate refuses."""
    policy = settings.calibrate.uncalibrated
    return "abstain" if policy == "raise" else policy


def _maps_to_judge_on(settings: Settings, store: CalibrationStore) -> ProbabilityStore | None:
    """The maps on which class-wise thresholds are judged; None for pooled thresholds."""
    return Run(settings).open_probabilities() if store.is_class_wise else None

"""All alphas at once: the thresholds of each, and what they are worth on labeled images that were left out."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.cross_fitting import Fact, fit, fit_and_judge
from pipeline.files import read_json, write_json
from pipeline.receipt import fingerprint
from pipeline.run import CHOSEN_LATER, Run
from pipeline.settings import Settings
from pipeline.store import CalibrationStore, ProbabilityStore

log = logging.getLogger(__name__)

VERSION = 2  # raise it when the same calibration would give other rows
STEPS = ((0.005, 0.1, 0.005), (0.11, 0.3, 0.01), (0.32, 0.6, 0.02), (0.65, 0.95, 0.05))  # from, to and with, by


class Sweep(NamedTuple):
    """What a run's calibration would be at other alphas.

    alphas:     the larger, the fewer labels; of variant risk, where alpha bounds the wrong labels, from large to small:
                from stop to stop, no threshold rises
    thresholds: of all labeled images, one map an alpha, as `calibrate` finds them
    n_valid:    int64 [H, W] or [K, H, W], labeled images behind each threshold
    held_out:   `num_images`, `folds`, `raw` and `rows`, a row for every alpha and rule, as in the receipt of calibrate;
                None if nothing can be held out
    """

    alphas: tuple[float, ...]
    thresholds: calib.Thresholds
    n_valid: npt.NDArray[np.int64]
    held_out: Fact | None

    @property
    def rows(self) -> list[Fact]:
        return self.held_out["rows"] if self.held_out else []


def sweep_run(settings: Settings, variant: str | None = None) -> Sweep:
    """Thresholds at every stop, and their held-out rows, which are kept in `sweep.json` of the run.

    variant: one of those that were calibrated; default: `calibrate.variant`
    raises: StoreError if the run is not calibrated, or was with other settings; ConfigError from reading them
    """
    store = calibrated_store(settings)
    own = settings.of_variant(variant or settings.calibrate.variant)
    alphas = stops(own, store)
    policy = _policy(own)
    path = Run(settings).folder.sweep
    key = fingerprint({"version": VERSION, "calibration": store.fingerprint, "alphas": alphas})
    swept = read_json(path) if path.is_file() else {}
    known = swept.get(own.calibrate.variant, {})
    if known.get("fingerprint") != key:
        log.info("sweep: judging %d alphas on held-out images, once; they are kept in %s", len(alphas), path)
        found = fit_and_judge(own, alphas, policy, store, _maps_to_judge_on(own, store))
        known = {"fingerprint": key, "held_out": found.held_out()}
        write_json(path, swept | {own.calibrate.variant: known})
        thresholds = found.thresholds
    else:
        thresholds = fit(own, alphas, policy, store)
    return Sweep(tuple(alphas), thresholds, thresholds.images_behind(), known["held_out"])


def calibrated_store(settings: Settings) -> CalibrationStore:
    """The finished calibration of a run; StoreError unless these settings made it, whichever alphas they name."""
    return Run(settings).open_calibration(free=CHOSEN_LATER)


def stops(settings: Settings, store: CalibrationStore) -> list[float]:
    """The alphas of a sweep: fine steps and those of the store, from the most labels to the fewest.

    Class-wise thresholds are swept at the store's alone: which classes share one depends on the alphas. So is variant
    fixed, which is the same at all.
    """
    if store.is_class_wise or settings.calibrate.kind.bounds == "nothing":
        return sorted(store.alphas)
    fine = {round(first + i * by, 3) for first, last, by in STEPS for i in range(round((last - first) / by) + 1)}
    alphas = sorted(fine | set(store.alphas))
    if settings.calibrate.kind.bounds != "wrong labels":
        return alphas
    smallest = calib.smallest_alpha(int(store.n_valid.max()))  # below it, the bound cannot be kept at all
    return sorted((alpha for alpha in alphas if alpha >= smallest), reverse=True)


def _policy(settings: Settings) -> calib.Policy:
    """As calibrate does, but that an alpha which it would refuse is swept, and labels nothing."""
    policy = settings.calibrate.uncalibrated
    return "abstain" if policy == "raise" else policy


def _maps_to_judge_on(settings: Settings, store: CalibrationStore) -> ProbabilityStore | None:
    """The maps, which class-wise thresholds are judged on."""
    return Run(settings).open_probabilities() if store.is_class_wise else None

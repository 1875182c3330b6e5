"""What the gallery is made of: the stores of a run, checked to belong together, and its thresholds at every stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.cross_fitting import candidate_rules, of_variant
from pipeline.calibration.sweep import sweep_run
from pipeline.datasets import Sample, SampleIndex, read_mask, resize_nearest
from pipeline.drawing.pictures import Picture
from pipeline.errors import DatasetError, StoreError
from pipeline.report.figures import shown_thresholds
from pipeline.run import CHOSEN_LATER, Run
from pipeline.settings import Settings
from pipeline.sources import truth_path
from pipeline.store import CalibrationStore, LabelStore

log = logging.getLogger(__name__)

Facts = dict[str, Any]


class Stops(NamedTuple):
    """The stops of the slider, and what is known of each.

    alphas:     from the most labels to the fewest: ascending, or descending where alpha bounds wrong labels (risk)
    q:          float32 [A, H, W], threshold at each; class-wise: the median of the finite ones, to be shown only
    n_valid:    integer [H, W], labeled images behind it; class-wise: of the class that has fewest
    held_out:   estimates, as in the receipt of calibrate; None if nothing can be held out
    """

    alphas: tuple[float, ...]
    q: npt.NDArray[np.float32]
    n_valid: npt.NDArray[np.integer]
    held_out: Facts | None


class Source(NamedTuple):
    """Stores, samples and receipts of a run.

    settings:      with the variant of the labels
    receipts:      that of calibrate is about the same variant
    rules:         those that differ, the one of the labels among them
    other_variant: the variant of the labels, if the run's own is another
    """

    settings: Settings
    receipts: dict[str, dict[str, Any]]
    samples: SampleIndex
    calibration: CalibrationStore
    labels: LabelStore
    stops: Stops
    rules: tuple[str, ...]
    other_variant: str | None

    @property
    def is_class_wise(self) -> bool:
        return self.calibration.is_class_wise

    @property
    def background(self) -> int | None:
        background: int | None = self.labels.state["background"]
        return background

    @property
    def own_stop(self) -> int:
        """Position of the alpha that the labels in the store are of."""
        return self.stops.alphas.index(self.labels.state["alpha"])


def open_source(settings: Settings) -> Source:
    """Open a labeled run; StoreError until its labels are there, or if they are not those of its thresholds."""
    run = Run(settings)
    receipts: dict[str, Facts] = {name: dict(run.recorded(name)) for name in ("annotate", "calibrate", "pseudolabel")}
    calibration, labels = run.open_calibration(free=CHOSEN_LATER), run.open_labels(is_of_settings=False)
    stops = (
        class_wise_stops(calibration, labels, receipts["calibrate"])
        if calibration.is_class_wise
        else swept(settings, labels.state["variant"])
    )
    if labels.state["alpha"] not in stops.alphas:
        raise StoreError(
            f"{labels.path} is of alpha {labels.state['alpha']:g}, but {calibration.path} is not; "
            f"run {run.command('pseudolabel')}"
        )
    rules = rules_of(labels.rule, labels.state["background"], labels.state["variant"], calibration.is_class_wise)
    variant = labels.state["variant"]
    other = None if variant == settings.calibrate.variant else variant
    receipts["calibrate"] = of_variant(receipts["calibrate"], variant)
    return Source(settings.of_variant(variant), receipts, run.samples(), calibration, labels, stops, rules, other)


def swept(settings: Settings, variant: str) -> Stops:
    """Stops between the smallest alphas and the largest, from all labeled images."""
    sweep = sweep_run(settings, variant)
    q = np.stack([sweep.thresholds.map(a) for a in range(len(sweep.alphas))])
    return Stops(sweep.alphas, q, sweep.n_valid, sweep.held_out)


def class_wise_stops(calibration: CalibrationStore, labels: LabelStore, calibrated: Facts) -> Stops:
    """A stop for every alpha that the store has labels of."""
    alphas = sorted(labels.alphas)
    q = np.stack([shown_thresholds(calibration.q_hat(alpha)) for alpha in alphas])
    fewest = calibration.n_valid.min(axis=0)
    return Stops(tuple(alphas), q, fewest, calibrated["held_out"])


def rules_of(own: str, background: int | None, variant: str, is_class_wise: bool) -> tuple[str, ...]:
    """Rules that label differently, each by the name that the run uses if it uses one of those that are the same."""
    if is_class_wise:
        return (own,)  # other rules need the maps of all classes
    judged = *candidate_rules(False, variant), calib.RAW
    groups = [calib.rules_alike(rule, background is not None) for rule in judged]
    names = (own if own in group else next(rule for rule in judged if rule in group) for group in groups)
    return tuple(dict.fromkeys(names))


def photograph(source: Source, sample: Sample) -> Picture:
    """uint8 [H, W, 3]; StoreError if the file cannot be read."""
    try:
        return source.samples.image(sample)
    except OSError as error:
        path = source.samples.root / sample.image
        raise StoreError(f"{path} cannot be read ({error}); run this in the folder that `prepare` ran in") from None


def known_truth(source: Source, sample: Sample) -> npt.NDArray[np.uint8] | None:
    """uint8 [H, W] on the grid, 255 = void, only to be shown; None if there is no readable mask or it is not wanted."""
    data = source.settings.data
    path: Path | None = truth_path(sample, data) if source.settings.gallery.show_truth else None
    try:
        return None if path is None else resize_nearest(read_mask(path, data), data.grid)
    except (DatasetError, OSError, SyntaxError, ValueError) as error:
        log.warning("gallery: the mask %s is not shown: %s", path, error)
        return None

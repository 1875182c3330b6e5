"""The stores of a run with labels, checked to belong together, and its thresholds at every stop."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.folds import candidate_rules
from pipeline.calibration.rows import of_variant
from pipeline.calibration.sweep import sweep_run
from pipeline.datasets import Sample, SampleIndex, resize_nearest
from pipeline.drawing.pictures import Picture
from pipeline.errors import DatasetError, StoreError
from pipeline.report.figures import shown_thresholds
from pipeline.run import CHOSEN_LATER, Run
from pipeline.settings import Settings
from pipeline.sources import TrueMasks
from pipeline.store import CalibrationStore, LabelStore

log = logging.getLogger(__name__)

Facts = dict[str, Any]


class Stops(NamedTuple):
    """The stops of the slider.

    alphas:   from the most labels to the fewest: ascending, or descending where alpha bounds wrong labels
    q:        float32 [A, H, W], thresholds; class-wise: the median of the finite ones, only to be shown
    n_valid:  integer [H, W], labeled images of each threshold; class-wise: of the class with the fewest
    held_out: estimates, as in the receipt of calibrate; None if no image can be held out
    """

    alphas: tuple[float, ...]
    q: npt.NDArray[np.float32]
    n_valid: npt.NDArray[np.integer]
    held_out: Facts | None


class LabeledRun(NamedTuple):
    """Stores, samples and receipts of a run.

    settings:      with the variant of the labels
    receipts:      by stage; that of calibrate is for the same variant
    rules:         rules that label differently, including that of the labels
    other_variant: variant of the labels, if it is not `calibrate.variant` of the run; else None
    true_masks:    reads masks of unlabeled images, only to be shown
    """

    settings: Settings
    receipts: dict[str, dict[str, Any]]
    samples: SampleIndex
    calibration: CalibrationStore
    labels: LabelStore
    stops: Stops
    rules: tuple[str, ...]
    other_variant: str | None
    true_masks: TrueMasks

    @property
    def is_class_wise(self) -> bool:
        """Whether classes have thresholds of their own."""
        return self.calibration.is_class_wise

    @property
    def background(self) -> int | None:
        """Class index of the background, None without one."""
        background: int | None = self.labels.state["background"]
        return background

    @property
    def own_stop(self) -> int:
        """Index in `stops` of the alpha of the stored labels."""
        return self.stops.alphas.index(self.labels.state["alpha"])


def open_labeled_run(settings: Settings) -> LabeledRun:
    """Open the stores of a run; StoreError if it has no labels yet, or labels of other thresholds."""
    run = Run(settings)
    receipts: dict[str, Facts] = {name: dict(run.recorded(name)) for name in ("annotate", "calibrate", "pseudolabel")}
    calibration, labels = run.open_calibration(free=CHOSEN_LATER), run.open_labels(is_of_settings=False)
    stops = (
        class_wise_stops(calibration, labels, receipts["calibrate"])
        if calibration.is_class_wise
        else swept(settings, labels.state["variant"], labels.state["alpha"])
    )
    if labels.state["alpha"] not in stops.alphas:
        raise StoreError(
            f"{labels.path} has labels of alpha {labels.state['alpha']:g}, which {calibration.path} does not have; "
            f"run {run.command('pseudolabel')}"
        )
    rules = rules_of(labels.rule, labels.state["background"], labels.state["variant"], calibration.is_class_wise)
    variant = labels.state["variant"]
    other = None if variant == settings.calibrate.variant else variant
    receipts["calibrate"] = of_variant(receipts["calibrate"], variant)
    samples = run.samples()
    true_masks = TrueMasks.like_labeled(samples, settings.data)
    own = settings.of_variant(variant)
    return LabeledRun(own, receipts, samples, calibration, labels, stops, rules, other, true_masks)


def swept(settings: Settings, variant: str, own_alpha: float) -> Stops:
    """Stops of a sweep over alphas, with thresholds from all labeled images.

    Alphas whose threshold would rise from one stop to the next are left out; that of the labels stays.
    """
    sweep = sweep_run(settings, variant)
    alphas, thresholds = sweep.alphas, sweep.thresholds
    stops = never_rising(thresholds.q, alphas.index(own_alpha)) if own_alpha in alphas else range(len(alphas))
    q = np.stack([thresholds.map(a) for a in stops])
    return Stops(tuple(alphas[a] for a in stops), q, sweep.n_valid, sweep.held_out)


def never_rising(q: npt.NDArray[np.float32], own: int) -> list[int]:
    """Indices of thresholds that include `own` and do not rise anywhere from one to the next.

    q: float32 [A, ...]
    """
    chosen = [own]
    for index in range(own - 1, -1, -1):
        if _never_below(q[index], q[chosen[0]]):
            chosen.insert(0, index)
    for index in range(own + 1, len(q)):
        if _never_below(q[chosen[-1]], q[index]):
            chosen.append(index)
    return chosen


def _never_below(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> bool:
    return bool(((first >= second) | (np.isnan(first) & np.isnan(second))).all())


def class_wise_stops(calibration: CalibrationStore, labels: LabelStore, calibrated: Facts) -> Stops:
    """One stop for every alpha that has labels in the store."""
    alphas = sorted(labels.alphas)
    q = np.stack([shown_thresholds(calibration.q_hat(alpha)) for alpha in alphas])
    fewest = calibration.n_valid.min(axis=0)
    return Stops(tuple(alphas), q, fewest, calibrated["held_out"])


def rules_of(own: str, background: int | None, variant: str, is_class_wise: bool) -> tuple[str, ...]:
    """Names of the rules that label differently. Of rules that label alike, it is `own` or else the first.

    own:        rule of the labels
    background: class index; None without a background class
    """
    if is_class_wise:
        return (own,)  # other rules need the maps of all classes
    offered = *candidate_rules(False, variant), calib.RAW
    groups = [calib.rules_alike(rule, background is not None) for rule in offered]
    names = (own if own in group else next(rule for rule in offered if rule in group) for group in groups)
    return tuple(dict.fromkeys(names))


def photograph(run: LabeledRun, sample: Sample) -> Picture:
    """uint8 [H, W, 3] RGB; DatasetError if the file is not the one that prepare read."""
    return run.samples.image(sample)


def known_truth(run: LabeledRun, sample: Sample) -> npt.NDArray[np.uint8] | None:
    """Mask of an unlabeled image, only to be shown: uint8 [H, W] on the grid, class index or IGNORE_INDEX (void).

    returns: None if there is no mask that can be used, or if `gallery.show_truth` is off
    """
    data = run.settings.data
    path = run.true_masks.path(sample) if run.settings.gallery.show_truth else None
    try:
        return None if path is None else resize_nearest(run.true_masks.read(path, sample), data.grid)
    except DatasetError as error:
        log.warning("gallery: the mask %s is not shown: %s", path, error)
        return None

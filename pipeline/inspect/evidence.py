"""The stores of a run and one of its images, opened to explain pixels of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError
from pipeline.inspect.location import STEP, Fitted, alpha_list, fit_pooled
from pipeline.run import CHOSEN_LATER, Run
from pipeline.settings import Settings, did_you_mean
from pipeline.store import (
    DONE,
    CalibrationStore,
    LabelStore,
    ProbabilityStore,
    open_for_inspection,
    refuse_lost,
    store_exists,
)


@dataclass(frozen=True)
class Evidence:
    """The stores of a run, and one of its images.

    maps:        float32 [K, H, W] probabilities on the grid
    size:        height and width of the image itself
    images:      labeled images behind the thresholds, as places in the calibration store
    fitted:      thresholds over a list of alphas, of variants that pool pixels
    settings, alpha, rule: with the variant, alpha and rule of the labels, as long as there are any
    """

    settings: Settings
    calibration: CalibrationStore
    labels: LabelStore | None
    sample_id: str
    size: tuple[int, int]
    maps: npt.NDArray[np.float32]
    images: list[int]
    fitted: Fitted | None
    alpha: float
    rule: str

    @property
    def labeled_place(self) -> int | None:
        return place_of(self.sample_id, self.calibration.sample_ids)

    @property
    def label_place(self) -> int | None:
        """Where the image's labels are, once they are made."""
        if self.labels is None:
            return None
        place = place_of(self.sample_id, self.labels.sample_ids)
        return place if place is not None and self.labels.status[place] == DONE else None


def place_of(sample_id: str, ids: Sequence[str]) -> int | None:
    return ids.index(sample_id) if sample_id in ids else None


def open_evidence(settings: Settings, sample_id: str) -> Evidence:
    """Open the stores of a run, and read the maps of one image.

    raises: StoreError if a store is not there, was made by other settings, or has no maps of this image
    """
    run = Run(settings)
    annotated, probabilities = run.receipt("annotate"), run.open_probabilities()
    calibration = run.open_calibration(free=CHOSEN_LATER)
    labels = _labels(run)
    if labels is not None:
        settings = settings.of_variant(labels.state["variant"])
    place = _place_in_cache(settings, probabilities, sample_id, annotated["failed"])
    images = np.flatnonzero(calibration.status == DONE).tolist()
    strips = probabilities.probabilities(place).strips()
    alpha, rule = _alpha_and_rule(settings, labels)
    return Evidence(
        settings=settings,
        calibration=calibration,
        labels=labels,
        sample_id=sample_id,
        size=(int(probabilities.read("height")[place]), int(probabilities.read("width")[place])),
        maps=np.concatenate([strip for _, strip in strips], axis=1),
        images=images,
        fitted=_fitted(settings, calibration, images, alpha),
        alpha=alpha,
        rule=rule,
    )


def _labels(run: Run) -> LabelStore | None:
    """The label store as far as it goes, None if there is none; StoreError if other thresholds made it."""
    path = run.folder.labels
    if not store_exists(path):
        return None
    labels = open_for_inspection(path)
    assert isinstance(labels, LabelStore)
    refuse_lost(labels)
    run.refuse_other_thresholds(labels, run.recorded("calibrate"))
    return labels


def _place_in_cache(
    settings: Settings, probabilities: ProbabilityStore, sample_id: str, failed: Mapping[str, str]
) -> int:
    ids = probabilities.sample_ids
    place = place_of(sample_id, ids)
    if sample_id in failed:
        raise StoreError(f"{probabilities.path} has no maps of {sample_id}: {failed[sample_id]}; fix the image")
    if place is not None:
        return place
    if sample_id in (sample.id for sample in Run(settings).samples().of("val")):
        raise StoreError(f"{sample_id} is a validation image: nothing is labeled there; choose an unlabeled one")
    raise StoreError(
        f"{probabilities.path} has no image {sample_id}{did_you_mean(sample_id, ids) or f'; e.g. {ids[0]}'}"
    )


def _alpha_and_rule(settings: Settings, labels: LabelStore | None) -> tuple[float, str]:
    if labels is not None:
        return labels.state["alpha"], labels.rule
    rule = settings.pseudolabel.rule
    if settings.pseudolabel.is_automatic:
        again = Run(settings).command("pseudolabel")
        raise StoreError(f"rule {rule} is decided when images are labeled; run {again}, or give --set rule=RULE")
    return settings.calibrate.alpha, rule


def _fitted(settings: Settings, calibration: CalibrationStore, images: list[int], alpha: float) -> Fitted | None:
    if settings.calibrate.kind.by_location:
        return None
    alphas = alpha_list(STEP, alpha, settings.calibrate.alpha)
    return fit_pooled(settings, calibration, images, alphas)

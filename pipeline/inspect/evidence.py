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
from pipeline.sources.ids import ImageIds
from pipeline.store import (
    DONE,
    CalibrationStore,
    LabelStore,
    ProbabilityStore,
    open_for_inspection,
    refuse_lost,
    repair_command,
    store_exists,
)


@dataclass(frozen=True)
class Evidence:
    """The stores of a run, and one of its images.

    maps:   float32 [K, H, W] probabilities on the grid, in [0, 1]
    size:   height and width of the image itself
    images: indices in the calibration store of the labeled images behind the thresholds
    fitted: thresholds at a list of alphas; None for a variant that does not pool pixels
    settings, alpha, rule: with the variant, alpha and rule of the labels, if there are labels
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
    def calibration_index(self) -> int | None:
        """Index of the image in the calibration store; None if it is not labeled."""
        return index_of(self.sample_id, self.calibration.sample_ids)

    @property
    def label_index(self) -> int | None:
        """Index of the image in the label store; None before it has labels."""
        if self.labels is None:
            return None
        index = index_of(self.sample_id, self.labels.sample_ids)
        return index if index is not None and self.labels.status[index] == DONE else None


def index_of(sample_id: str, ids: Sequence[str]) -> int | None:
    return ids.index(sample_id) if sample_id in ids else None


def tile_with(settings: Settings, name: str, x: int, y: int) -> tuple[str, int, int]:
    """The tile that answers for a pixel of an image that was cut, and the pixel there; else what was given."""
    for sample in Run(settings).samples().samples:
        tile = sample.tile
        if tile is not None and tile.image == name and tile.core.contains(y, x):
            return sample.id, x - tile.window.left, y - tile.window.top
    return name, x, y


def open_evidence(settings: Settings, name: str) -> Evidence:
    """Open the stores of a run, and read the maps of one image.

    name:   id, path or stem of the image
    raises: StoreError if a store does not exist, was made with other settings, or has no maps of this image;
            DatasetError for a stem of several images
    """
    run = Run(settings)
    annotated, probabilities = run.receipt("annotate"), run.open_probabilities()
    sample_id = ImageIds(probabilities.sample_ids).resolve(name)
    calibration = run.open_calibration(free=CHOSEN_LATER)
    labels = _labels(run)
    if labels is not None:
        settings = settings.of_variant(labels.state["variant"])
    index = _index_in_cache(settings, probabilities, sample_id, annotated["failed"])
    images = np.flatnonzero(calibration.status == DONE).tolist()
    strips = probabilities.probabilities(index).strips()
    alpha, rule = _alpha_and_rule(settings, labels)
    return Evidence(
        settings=settings,
        calibration=calibration,
        labels=labels,
        sample_id=sample_id,
        size=(int(probabilities.read("height")[index]), int(probabilities.read("width")[index])),
        maps=np.concatenate([strip for _, strip in strips], axis=1),
        images=images,
        fitted=_fitted(settings, calibration, images, alpha),
        alpha=alpha,
        rule=rule,
    )


def _labels(run: Run) -> LabelStore | None:
    """The label store, finished or not; None if there is none; StoreError if it was made with other thresholds."""
    path = run.folder.labels
    if not store_exists(path):
        return None
    labels = open_for_inspection(path)
    assert isinstance(labels, LabelStore)
    refuse_lost(labels)
    run.refuse_other_thresholds(labels, run.recorded("calibrate"))
    return labels


def _index_in_cache(
    settings: Settings, probabilities: ProbabilityStore, sample_id: str, failed: Mapping[str, str]
) -> int:
    ids = probabilities.sample_ids
    index = index_of(sample_id, ids)
    if sample_id in failed:
        again = repair_command(probabilities.path, "probabilities")
        raise StoreError(
            f"{probabilities.path} has no maps of {sample_id}: {failed[sample_id]}; fix the image, then run {again}"
        )
    if index is not None:
        return index
    if sample_id in (sample.id for sample in Run(settings).samples().of("val")):
        raise StoreError(f"{sample_id} is a val image, which gets no label; choose another image: --id {ids[0]}")
    raise StoreError(
        f"{probabilities.path} has no image {sample_id}{did_you_mean(sample_id, ids) or f'; e.g. {ids[0]}'}"
    )


def _alpha_and_rule(settings: Settings, labels: LabelStore | None) -> tuple[float, str]:
    if labels is not None:
        return labels.state["alpha"], labels.rule
    rule = settings.pseudolabel.rule
    again = Run(settings).command("pseudolabel")
    if settings.pseudolabel.guarantee is not None:
        raise StoreError(f"the guaranteed threshold is chosen when images are labeled; run {again}")
    if settings.pseudolabel.is_automatic:
        raise StoreError(f"rule {rule} is chosen when images are labeled; add --set rule=paper, or run {again}")
    return settings.calibrate.alpha, rule


def _fitted(settings: Settings, calibration: CalibrationStore, images: list[int], alpha: float) -> Fitted | None:
    if settings.calibrate.kind.by_location:
        return None
    alphas = alpha_list(STEP, alpha, settings.calibrate.alpha)
    return fit_pooled(settings, calibration, images, alphas)

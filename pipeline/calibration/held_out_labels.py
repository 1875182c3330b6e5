"""Labels of the labeled images, by thresholds that were computed without the fold of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.cross_fitting import labeled_maps
from pipeline.calibration.folds import Folds, variant_of
from pipeline.settings import Settings
from pipeline.store import CalibrationStore, ProbabilityStore


@dataclass(frozen=True)
class HeldOutLabels:
    """The labels that calibrate judges for one variant, alpha and rule.

    probabilities: maps, which class-wise thresholds need
    thresholds:    one per fold, from the images of all other folds
    fold_of_image: index in the calibration store -> fold
    """

    settings: Settings
    store: CalibrationStore
    probabilities: ProbabilityStore | None
    rule: str
    thresholds: tuple[calib.Thresholds, ...]
    fold_of_image: dict[int, int]

    def label(self, index: int) -> npt.NDArray[np.float32]:
        """float32 [H, W], class index, NaN = abstain, of an image at an index of the calibration store."""
        background, planes = self.settings.data.background_index, self.store.planes(index)
        if self.rule == calib.RAW:
            return calib.most_probable(planes, background)[0].astype(np.float32)
        q_hat = self.thresholds[self.fold_of_image[index]].map(0)
        accept = self.settings.calibrate.uncalibrated == "accept"
        policy: Literal["accept", "abstain"] = "accept" if accept else "abstain"
        if q_hat.ndim == 2:
            return calib.label_pixels(planes, q_hat, self.rule, background, policy)
        sets = calib.class_wise_sets(self._maps(index), q_hat, background, policy)
        return calib.label_class_wise(sets, planes, self.rule, background, policy)

    def raw(self, index: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W], most probable class."""
        return calib.most_probable(self.store.planes(index), self.settings.data.background_index)[0]

    def truth(self, index: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W], class index of the mask on the grid, IGNORE_INDEX = void."""
        return self.store.read_chunk("truth", index)

    def _maps(self, index: int) -> npt.NDArray[np.float32]:
        assert self.probabilities is not None, "class-wise thresholds need the maps"
        position = self.probabilities.sample_ids.index(self.store.sample_ids[index])
        return self.probabilities.probabilities(position).rows(slice(None))


def held_out_labels(
    settings: Settings,
    store: CalibrationStore,
    probabilities: ProbabilityStore | None,
    labels: tuple[str, float, str],
) -> HeldOutLabels | None:
    """The held-out labels of a variant, alpha and rule; None if no image can be held out.

    None, too, if the thresholds are class-wise and there are no maps.

    labels: variant, alpha and rule, of those that calibrate has judged
    """
    variant, alpha, rule = labels
    own = settings.of_variant(variant)
    maps = labeled_maps(own, store)
    folds = Folds.of(own, maps)
    needs_maps = folds.is_class_wise and rule != calib.RAW
    if folds.number < 2 or (needs_maps and probabilities is None):
        return None
    thresholds: tuple[calib.Thresholds, ...] = ()
    if rule != calib.RAW:
        policy: calib.Policy = "max" if own.calibrate.uncalibrated == "max" else "abstain"
        # thresholds by location are whole maps; clusters of classes depend on all alphas
        alphas = [alpha] if own.calibrate.kind.by_location else own.alphas
        _, *of_folds = calib.fit(variant_of(own, alphas), maps, folds.of_image)
        thresholds = tuple(one.at([alphas.index(alpha)]).resolve(policy) for one in of_folds)
    by_image = dict(zip(maps.images, folds.of_image.tolist(), strict=True))
    return HeldOutLabels(own, store, probabilities, rule, thresholds, by_image)

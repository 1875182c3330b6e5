"""The cross-fitting folds of a variant, what is fitted in each of them, and the rules that are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.stored_maps import StoredMaps
from pipeline.settings import CalibrateSettings, Settings

FEW_IMAGES = 100  # up to this many labeled images or groups, the number of folds changes the ranks noticeably


class Folds(NamedTuple):
    """The cross-fitting folds of a variant.

    settings: with this variant
    number:   1 if nothing is held out
    of_image: int64 [L], of the finished images of a calibration store, 0..number - 1
    """

    settings: Settings
    number: int
    of_image: npt.NDArray[np.int64]

    @staticmethod
    def of(settings: Settings, maps: StoredMaps) -> Folds:
        number = num_folds(calib.num_units(maps.unit_of_image), settings.calibrate)
        none = np.zeros(maps.num_images, np.int64)
        return Folds(settings, number, calib.assign_folds(maps.unit_of_image, number) if number > 1 else none)

    @property
    def variant(self) -> str:
        return self.settings.calibrate.variant

    @property
    def is_class_wise(self) -> bool:
        return self.settings.calibrate.class_thresholds != "pooled"

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are judged; none if nothing is held out."""
        return candidate_rules(self.is_class_wise, self.variant) if self.number > 1 else ()


def num_folds(num_units: int, settings: CalibrateSettings) -> int:
    """Number of cross-fitting folds: that of the settings, or a default that keeps the time short.

    num_units: number of labeled images, or of their groups
    """
    if settings.folds is not None:
        folds = settings.folds
    elif num_units > FEW_IMAGES:
        folds = 10
    else:
        folds = num_units if settings.kind.by_location else 20
    return min(folds, num_units)


def variant_of(settings: Settings, alphas: Sequence[float]) -> calib.Variant:
    """The settings of the calibration as an argument of `calib.fit`."""
    chosen = settings.calibrate
    return calib.Variant(
        name=chosen.variant,
        alphas=tuple(alphas),
        quantile=chosen.quantile,
        pooling=chosen.pooling,
        classes=chosen.class_thresholds,
        num_classes=settings.data.num_classes,
        num_regions=chosen.regions,
        class_clusters=chosen.class_clusters,
        class_shrinkage=chosen.class_shrinkage,
        bandwidth=chosen.bandwidth,
        n_min=chosen.n_min,
        fallback=chosen.fallback,
        background=settings.data.background_index,
        fixed_threshold=chosen.fixed_threshold,
        error=settings.error_of_each_test,
    )


def candidate_rules(is_class_wise: bool, variant: str) -> tuple[str, ...]:
    """Rules that are judged.

    A variant whose guarantee is about one rule has that rule only. With one threshold for all classes some rules give
    the same labels, and one of them is judged. Rule raw needs no threshold and is judged once, separately.
    """
    only = calib.find_variant(variant).rule
    if only is not None:
        return (only,)
    return calib.calibrated_rules() if is_class_wise else calib.distinct_rules()

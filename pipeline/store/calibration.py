"""`calibration.zarr`: scores of the labeled images, and the thresholds learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.store.arrays import DONE
from pipeline.store.group import Handle, Store, read_planes
from pipeline.store.integrity import open_store


class CalibrationStore(Store):
    """Scores, masks and planes of the labeled images, and the thresholds learned from them.

    For every labeled image: `score`, `truth` and the planes of `calib.planes`; with `pseudolabel.guarantee` also
    `label_curves`, from which its thresholds are tested. For every alpha: `q_hat (alpha, y, x)`,
    or (alpha, class, y, x) with class-wise thresholds. `n_valid`: number of images that each threshold was computed
    from. These are of the store's own variant; every other variant has `q_hat_VARIANT` and `n_valid_VARIANT`.
    """

    def write_image(self, index: int, maps: Mapping[str, npt.NDArray[Any]]) -> None:
        """All arrays of one labeled image: `score`, `truth` and the planes, each [H, W], and the `label_curves`."""
        for name, values in maps.items():
            array = self.array(name)
            array[index] = values.astype(array.dtype)

    def maps(self, names: Sequence[str], images: Sequence[int], rows: slice) -> dict[str, npt.NDArray[Any]]:
        """Name -> [images, rows, W] in the array's dtype: some rows of some images. raises: StoreError"""
        return {name: np.stack([self.read_chunk(name, image)[rows] for image in images]) for name in names}

    @property
    def tested_rules(self) -> list[str]:
        """The rules with `label_curves`; [] without a guarantee."""
        return list(self.state.get("tested_rules", []))

    def label_curves(self, rule: str, images: Sequence[int]) -> npt.NDArray[np.float64] | None:
        """The curves of some images by a rule (`calib.curves.image_curves`): float64 [images, 2, T].

        returns: None if the rule is not one of `tested_rules`
        raises:  StoreError if a chunk is lost or damaged
        """
        if rule not in self.tested_rules:
            return None
        of_rule = self.tested_rules.index(rule)
        return np.stack([self.read_chunk("label_curves", index)[of_rule] for index in images])

    def planes(self, index: int) -> calib.Planes:
        """Planes of one labeled image."""
        return read_planes(self, index)

    def write_folds(self, fold: npt.NDArray[np.integer]) -> None:
        """Write the fold in which each image was held out. fold: integer [N], -1 = none"""
        self._write("fold", fold)

    def write_thresholds(self, variant: str, thresholds: calib.Thresholds) -> None:
        """Write the thresholds from all images at every alpha of the store, and the numbers of images behind them."""
        self._write(self._name("q_hat", variant), np.stack([thresholds.map(a) for a in range(len(thresholds.q))]))
        self._write(self._name("n_valid", variant), thresholds.images_behind())

    def write_held_out_keep_rates(self, variant: str, labeled: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Write the fraction of the pixels of each held-out image that a rule labels.

        labeled: rule -> float64 [A, L], of the L finished images, NaN where it was not judged; one of several
                 `calib.rules_alike` is enough
        """
        name = self._name("held_out_keep_rate", variant)
        values = np.full(self.specs[name].shape, np.nan)
        done = np.flatnonzero(self.status == DONE)
        for r, rule in enumerate(self.state["rules"]):
            judged = next((name for name in (rule, *calib.rules_alike(rule)) if name in labeled), None)
            if judged is not None:
                values[:, r, done] = labeled[judged]
        self._write(name, values)

    def held_out_keep_rate(self, variant: str, alpha: float, rule: str) -> npt.NDArray[np.float64]:
        """float64 [N]: fraction of the pixels of each image that is labeled with thresholds from other images.

        returns: NaN where it was not computed, and for a rule that did not exist when the store was made
        """
        if rule not in self.state["rules"]:
            return np.full(len(self.status), np.nan)
        of_alpha = self.read_present(self._name("held_out_keep_rate", variant), self.alphas.index(alpha))
        rates: npt.NDArray[np.float32] = of_alpha[self.state["rules"].index(rule)]
        return rates.astype(np.float64)

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        self.refuse_replaced()
        array = self.array(name)
        array[...] = values.astype(array.dtype)

    def _name(self, array: str, variant: str | None) -> str:
        return array if variant in (None, self.state["variant"]) else f"{array}_{variant}"

    @property
    def variants(self) -> list[str]:
        """Variants with thresholds in the store, its own first."""
        return [self.state["variant"], *sorted({*self.state["variants"]} - {self.state["variant"]})]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the maps."""
        height, width = self.state["grid"]
        return height, width

    @property
    def alphas(self) -> list[float]:
        return list(self.state["alphas"])

    @property
    def is_class_wise(self) -> bool:
        return "class" in self.specs["q_hat"].dims

    def q_hat(self, alpha: float, variant: str | None = None) -> npt.NDArray[np.float32]:
        """Thresholds: float32 [H, W] or, class-wise, [K, H, W]; NaN without any score, +inf with too few.

        alpha:   one of `alphas`
        variant: one of `variants`; default: the store's own
        raises:  StoreError if a chunk is lost or damaged
        """
        return self.read_present(self._name("q_hat", variant), self.alphas.index(alpha))

    @property
    def n_valid(self) -> npt.NDArray[np.int32]:
        """int32 [H, W] or, class-wise, [K, H, W]: number of labeled images that each threshold was computed from."""
        return self.images_behind()

    def images_behind(self, variant: str | None = None) -> npt.NDArray[np.int32]:
        """`n_valid` of one of the `variants`; default: the store's own."""
        return self.read_present(self._name("n_valid", variant))


def open_calibration(where: Path | Handle, *, writable: bool = False, again: str | None = None) -> CalibrationStore:
    """Open calibration.zarr; arguments and errors as `open_store`."""
    return open_store(CalibrationStore, "calibration", where, writable, again)

"""`calibration.zarr`: scores of the labelled images, and the thresholds learnt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import IGNORE_INDEX
from pipeline.store.group import (
    ArraySpec,
    Store,
    create_array,
    open_store,
    per_image,
    plane_arrays,
    read_planes,
    status_array,
)


class CalibrationStore(Store):
    """Scores, masks and planes of the labelled images, and the thresholds learnt from them.

    For every labelled image `score`, `truth` and the planes of `calib.rules`; for every alpha `q_hat (alpha, y, x)`, or
    (alpha, class, y, x) if each class has its own; and `n_valid`, how many images are behind each. While held-out
    images are judged there are also the thresholds that judge each fold of them: `held_out_q (fold, alpha,
    threshold_class, region)` and `held_out_region (fold, y, x)`.
    """

    def write_image(self, index: int, maps: Mapping[str, npt.NDArray[Any]]) -> None:
        """All arrays of one labelled image, each [H, W]."""
        for name, values in maps.items():
            array = self.array(name)
            array[index] = values.astype(array.dtype)

    def maps(self, names: Sequence[str], images: Sequence[int], rows: slice) -> dict[str, npt.NDArray[Any]]:
        """name -> [images, rows, W]: a band of rows of the chosen images, read one image at a time."""
        return {name: np.stack([self.read_chunk(name, image)[rows] for image in images]) for name in names}

    def planes(self, index: int) -> calib.Planes:
        """Planes of one labelled image."""
        return read_planes(self, index)

    def write_thresholds(
        self, alphas: Sequence[float], fits: Sequence[calib.Thresholds], fold: npt.NDArray[np.integer]
    ) -> None:
        """Thresholds from all images, and those that judge each fold; fold: integer [N], -1 = no part in it."""
        whole, held_out = fits[0], fits[1:]
        dims = ("class", "y", "x") if whole.is_class_wise else ("y", "x")
        nan = float("nan")
        self._put("alpha", ("alpha",), np.asarray(alphas, np.float64), nan)
        self._put("fold", ("sample",), fold.astype(np.int32), -1)
        self._put("q_hat", ("alpha", *dims), np.stack([whole.map(a) for a in range(len(alphas))]), nan, len(dims) - 1)
        counts = whole.num_images[:, whole.region]
        self._put("n_valid", dims, (counts if whole.is_class_wise else counts[0]).astype(np.int32), 0, len(dims) - 2)
        if held_out:
            size = max(fit.q.shape[2] for fit in held_out)
            q = np.full((len(held_out), *held_out[0].q.shape[:2], size), np.nan, np.float32)
            for thresholds, target in zip(held_out, q, strict=True):
                target[:, :, : thresholds.q.shape[2]] = thresholds.q
            self._put("held_out_q", ("fold", "alpha", "threshold_class", "region"), q, nan, 1)
            self._put("held_out_region", ("fold", "y", "x"), np.stack([fit.region for fit in held_out]), 0, 1)

    def forget_held_out_thresholds(self) -> None:
        """Delete what only the judging of held-out images needs: with a fold an image, it is many maps."""
        for name in {"held_out_q", "held_out_region"} & set(self.group.array_keys()):
            del self.group[name]
            self.opened.pop(name, None)

    def _put(
        self, name: str, dims: tuple[str, ...], values: npt.NDArray[Any], fill: Any, chunked_axes: int = 0
    ) -> None:
        """(Re)write a small array; along its first axes it has a chunk an entry."""
        if name in self.group:
            del self.group[name]
            self.opened.pop(name, None)
        chunks = (1,) * chunked_axes + values.shape[chunked_axes:]
        create_array(self.group, name, ArraySpec(dims, values.shape, values.dtype.name, fill, chunks))
        array = self.array(name)
        array[...] = values

    @property
    def alphas(self) -> list[float]:
        return [float(alpha) for alpha in self.array("alpha")[:]]

    @property
    def is_class_wise(self) -> bool:
        return bool(self.array("q_hat").ndim == 4)

    def q_hat(self, alpha: float) -> npt.NDArray[np.float32]:
        """float32 [H, W] or, class-wise, [K, H, W]; NaN where nothing was learnt, inf where images are too few."""
        q_hat: npt.NDArray[np.float32] = self.array("q_hat")[self.alphas.index(alpha)]
        return q_hat

    def held_out_thresholds(self, fold: int) -> calib.Thresholds:
        """Thresholds that were learnt without the images of a fold; the counts behind them are not kept."""
        q, region = self.array("held_out_q")[fold], self.array("held_out_region")[fold]
        return calib.Thresholds(region, q, np.zeros(q.shape[1:], np.int64), np.zeros(q.shape[1:], np.float32))

    @property
    def n_valid(self) -> npt.NDArray[np.int32]:
        """int32 [H, W] or [K, H, W], labelled images behind each threshold."""
        n_valid: npt.NDArray[np.int32] = self.array("n_valid")[...]
        return n_valid


def calibration_arrays(num_samples: int, grid: Sequence[int], has_background: bool) -> dict[str, ArraySpec]:
    """Arrays of the labelled images; those of the thresholds follow when these are known."""
    shape = (num_samples, *grid)
    return {
        "score": per_image(shape, ("y", "x"), "float32", float("nan"), long_name="1 - P of the true class, NaN = void"),
        "truth": per_image(shape, ("y", "x"), "uint8", IGNORE_INDEX, long_name="true class, 255 = void"),
        **plane_arrays(shape, has_background),
        "status": status_array(num_samples),
    }


def open_calibration(path: Path, fingerprint: str | None = None, writable: bool = False) -> CalibrationStore:
    return CalibrationStore(path, *open_store(path, "calibration", fingerprint, writable))

"""`calibration.zarr`: scores of the labeled images, and the thresholds learnt from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import IGNORE_INDEX
from pipeline.store.creation import ArraySpec, create_array, per_image, plane_arrays, status_array
from pipeline.store.group import Store, open_store, read_planes


class CalibrationStore(Store):
    """Scores, masks and planes of the labeled images, and the thresholds learnt from them.

    For every labeled image `score`, `truth` and the planes of `calib.labels`; for every alpha `q_hat (alpha, y, x)`,
    or (alpha, class, y, x) if each class has its own; and `n_valid`, how many images are behind each. Those are of the
    store's own variant; of every other one that was judged beside it, `q_hat_VARIANT` and `n_valid_VARIANT`.
    """

    def write_image(self, index: int, maps: Mapping[str, npt.NDArray[Any]]) -> None:
        """All arrays of one labeled image, each [H, W]."""
        for name, values in maps.items():
            array = self.array(name)
            array[index] = values.astype(array.dtype)

    def maps(self, names: Sequence[str], images: Sequence[int], rows: slice) -> dict[str, npt.NDArray[Any]]:
        """name -> [images, rows, W]: a band of rows of the chosen images, read one image at a time."""
        return {name: np.stack([self.read_chunk(name, image)[rows] for image in images]) for name in names}

    def planes(self, index: int) -> calib.Planes:
        """Planes of one labeled image."""
        return read_planes(self, index)

    def write_folds(self, alphas: Sequence[float], fold: npt.NDArray[np.integer]) -> None:
        """The alphas, and the fold that each image was judged in: integer [N], -1 = no part in it."""
        self._put("alpha", ("alpha",), np.asarray(alphas, np.float64), float("nan"))
        self._put("fold", ("sample",), fold.astype(np.int32), -1)

    def write_thresholds(self, variant: str, thresholds: calib.Thresholds) -> None:
        """Thresholds from all images, at every alpha."""
        dims = ("class", "y", "x") if thresholds.is_class_wise else ("y", "x")
        q_hat = np.stack([thresholds.map(a) for a in range(len(thresholds.q))])
        n_valid = thresholds.images_behind().astype(np.int32)
        self._put(self._name("q_hat", variant), ("alpha", *dims), q_hat, float("nan"), len(dims) - 1)
        self._put(self._name("n_valid", variant), dims, n_valid, 0, len(dims) - 2)

    def _name(self, array: str, variant: str | None) -> str:
        return array if variant in (None, self.state["variant"]) else f"{array}_{variant}"

    @property
    def variants(self) -> list[str]:
        """Variants that there are thresholds of, its own first."""
        further = sorted(name.removeprefix("q_hat_") for name in self.array_names if name.startswith("q_hat_"))
        return [self.state["variant"], *further]

    def _put(
        self, name: str, dims: tuple[str, ...], values: npt.NDArray[Any], fill: Any, chunked_axes: int = 0
    ) -> None:
        """(Re)write a small array; along its first axes it has a chunk an entry."""
        if self.has_array(name):
            del self.group[name]
            self.opened.pop(name, None)
        chunks = (1,) * chunked_axes + values.shape[chunked_axes:]
        create_array(self.group, name, ArraySpec(dims, values.shape, values.dtype.name, fill, chunks))
        array = self.array(name)
        array[...] = values

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the maps."""
        height, width = self.array("score").shape[1:]
        return height, width

    @property
    def alphas(self) -> list[float]:
        return [float(alpha) for alpha in self.read_present("alpha")]

    @property
    def is_class_wise(self) -> bool:
        return bool(self.array("q_hat").ndim == 4)

    def q_hat(self, alpha: float, variant: str | None = None) -> npt.NDArray[np.float32]:
        """float32 [H, W] or, class-wise, [K, H, W]; NaN where nothing was learnt, inf where images are too few.

        variant: one of `variants`; default: the store's own
        """
        return self.read_present(self._name("q_hat", variant), self.alphas.index(alpha))

    @property
    def n_valid(self) -> npt.NDArray[np.int32]:
        """int32 [H, W] or [K, H, W], labeled images behind each threshold."""
        return self.images_behind()

    def images_behind(self, variant: str | None = None) -> npt.NDArray[np.int32]:
        """The same of any of the `variants`."""
        return self.read_present(self._name("n_valid", variant))


def calibration_arrays(num_samples: int, grid: Sequence[int], has_background: bool) -> dict[str, ArraySpec]:
    """Arrays of the labeled images; those of the thresholds follow when these are known."""
    shape = (num_samples, *grid)
    return {
        "score": per_image(shape, ("y", "x"), "float32", float("nan"), long_name="1 - P of the true class, NaN = void"),
        "truth": per_image(shape, ("y", "x"), "uint8", IGNORE_INDEX, long_name="true class, 255 = void"),
        **plane_arrays(shape, has_background),
        "status": status_array(num_samples),
    }


def open_calibration(path: Path, *, writable: bool = False, again: str | None = None) -> CalibrationStore:
    """Open the thresholds, see `open_store`."""
    return CalibrationStore(path, *open_store(path, "calibration", writable, again))

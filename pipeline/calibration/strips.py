"""Strips of rows of an image on the grid, reduced over the classes, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import IGNORE_INDEX
from pipeline.devices import device_of
from pipeline.settings import ComputeSettings
from pipeline.store import ProbabilityReader


def refuse_missing_device(compute: ComputeSettings) -> None:
    """ConfigError for a GPU that is not there, before a stage replaces its store. Dask's workers have their own."""
    if compute.scheduler == "threads":
        device_of("compute", compute.device)


class Strip(NamedTuple):
    """Rows of an image.

    planes: each [rows, W]
    score:  float32 [rows, W] in [0, 1], 1 - P(true class), NaN = void; None without a mask
    maps:   float32 [K, rows, W] in [0, 1]; None if they are not needed
    """

    rows: slice
    planes: calib.Planes
    score: npt.NDArray[np.float32] | None
    maps: npt.NDArray[np.float32] | None


def strips_of(
    reader: ProbabilityReader,
    background: int | None,
    device: str,
    *,
    mask: npt.NDArray[np.uint8] | None = None,
    needs_maps: bool = False,
) -> Iterator[Strip]:
    """The strips of an image, top to bottom: on every device the same numbers.

    background: index of the background class, None if there is none
    device:     setting `compute.device`; on the CPU, loops are compiled
    mask:       uint8 [H, W], true class, 255 = void
    raises:     ValueError for probabilities or masks that cannot be used; ConfigError for a GPU that does not exist, or
                whose memory runs out
    """
    device = device_of("compute", device)
    if device == "cpu":
        for rows, maps in reader.strips():
            score = None if mask is None else calib.true_class_scores(maps, mask[rows])
            yield Strip(rows, calib.class_planes(maps, background), score, maps)
        return
    from pipeline.calibration import device_strips  # torch is imported only where it computes

    classes = None if mask is None else calib.true_class_index(mask, len(reader.maps))
    for rows in device_strips.row_strips(reader):
        true_class = None if classes is None else classes[rows]
        reduced = device_strips.reduced_rows(device, reader, rows, background, true_class, needs_maps)
        score = None
        if mask is not None and reduced.p_true is not None:
            score = calib.scores_of(reduced.p_true, mask[rows] == IGNORE_INDEX)
        yield Strip(rows, reduced.planes, score, reduced.maps)

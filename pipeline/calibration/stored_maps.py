"""Reads the labeled images of a calibration store block by block with Dask (implements `calib.LabeledMaps`)."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

import calib
from pipeline.dask_tasks import reduce_tasks
from pipeline.progress import SECONDS_BETWEEN_LINES
from pipeline.settings import ComputeSettings
from pipeline.store import Handle, open_calibration

log = logging.getLogger(__name__)

T = TypeVar("T")


class BlockJob(NamedTuple):
    """A band of rows of some labeled images.

    indices: of the images in the store
    numbers: the same images, counted 0 to L - 1 among the L labeled images
    names:   arrays to read
    """

    calibration: Handle
    indices: list[int]
    numbers: list[int]
    names: tuple[str, ...]
    rows: slice


def apply_to_block(function: Callable[[calib.Block], T], job: BlockJob) -> T:
    """Read a block, and apply the function to it."""
    maps = open_calibration(job.calibration).maps(job.names, job.indices, job.rows)
    return function(calib.Block(np.array(job.numbers, np.int64), maps))


@dataclass
class StoredMaps:
    """The finished images of a calibration store. A block takes at most `tile_megabytes`, and so does a band's result.

    images: indices in the store
    shape:  height and width of the grid
    units:  int64 [L], the unit of each image (`calib.units`); default: each image is its own
    passes: number of passes over the images so far, for the log
    """

    calibration: Handle
    images: list[int]
    shape: tuple[int, int]
    compute: ComputeSettings
    units: npt.NDArray[np.int64] | None = None
    passes: int = 0

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def unit_of_image(self) -> npt.NDArray[np.int64]:
        return calib.each_alone(self.num_images) if self.units is None else self.units

    def label_curves(self, rule: str) -> npt.NDArray[np.float64] | None:
        return open_calibration(self.calibration).label_curves(rule, self.images)

    def bands(self, bytes_per_row: int) -> Iterable[slice]:
        """Slices of rows that cover the grid. The result of each takes at most `tile_megabytes`."""
        height = self.shape[0]
        step = max(1, self.compute.tile_megabytes * 1_000_000 // bytes_per_row)
        return [slice(start, min(start + step, height)) for start in range(0, height, step)]

    def reduce(
        self,
        names: Sequence[str],
        function: Callable[[calib.Block], T],
        merge: Callable[[T, T], T],
        rows: slice,
    ) -> T:
        """Apply `function` to blocks of all images in a band of rows, and merge the results in order."""
        bytes_per_image = 4 * len(names) * (rows.stop - rows.start) * self.shape[1]
        fitting = max(1, self.compute.tile_megabytes * 1_000_000 // bytes_per_image)
        workers = self.compute.workers or os.cpu_count() or 1
        size = min(fitting, -(-self.num_images // workers))
        starts = range(0, self.num_images, size)
        jobs = [
            BlockJob(
                self.calibration,
                self.images[start : start + size],
                list(range(start, min(start + size, self.num_images))),
                tuple(names),
                rows,
            )
            for start in starts
        ]
        self.passes += 1
        time_of_last_line = time.monotonic()
        done = 0

        def on_done() -> None:
            nonlocal done, time_of_last_line
            done += 1
            if time.monotonic() - time_of_last_line > SECONDS_BETWEEN_LINES / 6:
                time_of_last_line = time.monotonic()
                log.info("calibrate: pass %d over the labeled images, block %d of %d", self.passes, done, len(jobs))

        return reduce_tasks(functools.partial(apply_to_block, function), merge, jobs, self.compute, on_done)

"""Judges held-out labeled images by the thresholds of several variants, in one pass over the images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.dask_tasks import run_tasks
from pipeline.settings import ComputeSettings
from pipeline.store import Handle, open_calibration, open_probabilities

# NumPy reads the header of a file with Python's own parser. In several threads at a time, that of Python 3.11 fails now
# and then: "SystemError: AST constructor recursion depth mismatch" (cpython issue 106905)
_ONE_READER = threading.Lock()


class JudgeJob(NamedTuple):
    """One labeled image to judge.

    image_index:   index of the image in the calibration store
    probabilities: store with its maps; None if no thresholds are class-wise
    maps_index:    index of the image in that store; -1 if there is none
    thresholds:    files of `write_thresholds`, one per variant, computed without this image
    """

    calibration: Handle
    image_index: int
    probabilities: Handle | None
    maps_index: int
    thresholds: tuple[Path, ...]
    rules: tuple[str, ...]
    background: int | None
    accept_uncalibrated: bool


def judge_images(
    jobs: Sequence[JudgeJob], compute: ComputeSettings, on_done: Callable[[], None]
) -> list[calib.Judgement]:
    """Judge every image, in the order of the images, whichever task finishes first; call `on_done` after each."""
    judged: dict[int, calib.Judgement] = {}

    def keep(result: tuple[int, calib.Judgement]) -> None:
        judged[result[0]] = result[1]
        on_done()

    run_tasks(judge, jobs, compute, keep)
    return [judged[i] for i in sorted(judged)]


def judge(job: JudgeJob) -> tuple[int, calib.Judgement]:
    """Index and counts of one image, at every alpha of the first file of thresholds, then of the second one, ..."""
    store = open_calibration(job.calibration)
    maps = None
    if job.probabilities is not None:
        maps = open_probabilities(job.probabilities).probabilities(job.maps_index).rows(slice(None))
    counts = calib.judge_image(
        store.planes(job.image_index),
        store.read_chunk("score", job.image_index),
        store.read_chunk("truth", job.image_index),
        (threshold_map for file in job.thresholds for threshold_map in _threshold_maps(file)),
        job.rules,
        len(store.class_names),
        job.background,
        "accept" if job.accept_uncalibrated else "abstain",
        maps,
    )
    return job.image_index, counts


def write_thresholds(file: Path, thresholds: calib.Thresholds) -> None:
    """Write the thresholds of a fold for the tasks that judge its images."""
    region, q = thresholds.region, thresholds.q
    shape = (1, 1) if q.shape[-1] == 1 else region.shape
    if q.shape[-1] in (1, region.size) and _is_its_own(region.reshape(-1)[: q.shape[-1]]):
        np.save(file, q.reshape(*q.shape[:2], *shape))
    else:
        np.save(file, q)
        np.save(_file_of_regions(file), region)


def _is_its_own(region: npt.NDArray[np.int32]) -> bool:
    """Whether each location is the region with its own number."""
    return bool((region == np.arange(len(region))).all())


def _file_of_regions(file: Path) -> Path:
    return file.with_suffix(".regions.npy")


def _threshold_maps(file: Path) -> Iterator[npt.NDArray[np.float32]]:
    """The threshold map of each alpha: float32 [H, W], or class-wise [K, H, W]; H and W are 1 with a single region."""
    with _ONE_READER:
        q = np.load(file)
        region = None if q.ndim == 4 else np.load(_file_of_regions(file))
    for q_alpha in q:
        maps = q_alpha if region is None else q_alpha[:, region]
        yield maps if len(maps) > 1 else maps[0]

"""calibrate: scores of the labelled images, and from them the threshold of every pixel location."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.config import CalibrateSettings, DataSettings, Settings
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample, SampleIndex, load_samples, resize_nearest
from pipeline.errors import ConfigError, StoreError
from pipeline.progress import Progress
from pipeline.receipt import fingerprint, read_receipt
from pipeline.store import (
    DONE,
    FAILED,
    CalibrationStore,
    ProbabilityStore,
    calibration_arrays,
    open_calibration,
    open_probabilities,
    resume_or_create,
)

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same maps and masks would give other thresholds


def calibrate(settings: Settings) -> dict[str, Any]:
    """Write `calibration.zarr`; raises StoreError without a matching probability cache."""
    start = time.monotonic()
    receipt = read_receipt(settings.folder / "annotate.json", "annotate")
    probabilities = open_probabilities(settings.folder / "probs.zarr", receipt["fingerprint"])
    index = load_samples(settings.folder / "samples.json")
    labeled = index.of("labeled")
    store = _open(settings, probabilities, labeled)
    _score_images(settings, store, probabilities, index, labeled)
    held_out = _calibrate_tiles(settings, store)
    store.finish()
    return _facts(settings.calibrate, store, held_out) | {"seconds": round(time.monotonic() - start, 1)}


def _open(settings: Settings, probabilities: ProbabilityStore, labeled: Sequence[Sample]) -> CalibrationStore:
    path = settings.folder / "calibration.zarr"
    data = settings.data
    facts = {
        "fingerprint": fingerprint(
            {
                "version": VERSION,
                "probabilities": probabilities.fingerprint,
                "settings": settings.calibrate.tracked(),
                "mask_values": data.mask_values,
                "masks": [[sample.id, sample.mask_digest] for sample in labeled],
            }
        ),
        "class_names": data.class_names,
        "alpha": settings.calibrate.alpha,
        "quantile": settings.calibrate.quantile,
    }
    arrays = calibration_arrays(len(labeled), data.grid)
    resume_or_create(path, "calibration", facts, labeled, arrays)
    return open_calibration(path, writable=True)


class ScoreJob(NamedTuple):
    """One labelled image: where its maps and mask are, and where its score map goes."""

    probabilities: Path
    position: int
    calibration: Path
    index: int
    samples: SampleIndex
    sample: Sample
    data: DataSettings
    tile_megabytes: int


def score_image(job: ScoreJob) -> int:
    """Write the score map of one image on the grid; returns its index."""
    reader = open_probabilities(job.probabilities).probabilities(job.position)
    mask = resize_nearest(job.samples.mask(job.sample, job.data), job.data.grid)
    score = np.empty(mask.shape, np.float32)
    for rows, strip in reader.strips(job.tile_megabytes):
        score[rows] = calib.true_class_scores(strip, mask[rows])
    open_calibration(job.calibration, writable=True).write_score(job.index, score)
    return job.index


def _score_images(
    settings: Settings,
    store: CalibrationStore,
    probabilities: ProbabilityStore,
    index: SampleIndex,
    labeled: Sequence[Sample],
) -> None:
    position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    annotated = probabilities.status
    jobs = []
    for i in np.flatnonzero(store.status != DONE):
        sample = labeled[i]
        if annotated[position[sample.id]] != DONE:
            store.mark(int(i), FAILED)
            continue
        paths = probabilities.path.absolute(), position[sample.id], store.path.absolute(), int(i)
        jobs.append(ScoreJob(*paths, index, sample, settings.data, settings.compute.tile_megabytes))
    progress = Progress(log, "calibrate", len(labeled), "images", done=len(labeled) - len(jobs))

    def on_done(finished: int) -> None:
        store.mark(finished, DONE)
        progress.advance()

    run_tasks(score_image, jobs, settings.compute, on_done)
    if not (store.status == DONE).any():
        raise StoreError(f"{probabilities.path} has no map of any labelled image; see the failures in annotate.json")


class TileJob(NamedTuple):
    """A band of rows of all score maps."""

    calibration: Path
    images: list[int]
    start: int
    stop: int
    settings: CalibrateSettings


class Tile(NamedTuple):
    """What a band of rows gives: thresholds, valid scores, the largest score, and held-out counts."""

    start: int
    stop: int
    q_hat: npt.NDArray[np.float32]
    num_valid: npt.NDArray[np.int32]
    largest: npt.NDArray[np.float32]
    held_out: calib.HeldOutCounts | None


def calibrate_tile(job: TileJob) -> Tile:
    """Thresholds of one band of rows; all its scores are in memory, so bands are as high as `tile_megabytes` allows."""
    store = open_calibration(job.calibration, writable=True)
    scores = store.scores(job.images, job.start, job.stop)
    settings = job.settings
    q_hat = calib.pixel_quantile(scores, settings.alpha, settings.quantile)
    held_out = None
    if len(scores) > 1:
        folds = calib.assign_folds(len(scores), min(settings.folds, len(scores)))
        held_out = calib.held_out_counts(scores, folds, settings.alpha, settings.quantile)
    return Tile(job.start, job.stop, q_hat, calib.num_valid(scores), calib.largest_score(scores), held_out)


def _calibrate_tiles(settings: Settings, store: CalibrationStore) -> calib.HeldOutCoverage | None:
    """Write q_hat and n_valid; returns the cross-fitted coverage (None for a single labelled image)."""
    height, width = settings.data.grid
    images = np.flatnonzero(store.status == DONE).tolist()
    rows = max(1, settings.compute.tile_megabytes * 1_000_000 // (len(images) * width * 4))
    path = store.path.absolute()
    starts = range(0, height, rows)
    jobs = [TileJob(path, images, start, min(start + rows, height), settings.calibrate) for start in starts]
    tiles: list[Tile] = []
    run_tasks(calibrate_tile, jobs, settings.compute, tiles.append)
    tiles.sort(key=lambda tile: tile.start)
    q_hat, num_valid, largest = (
        np.concatenate([getattr(tile, name) for tile in tiles]) for name in ("q_hat", "num_valid", "largest")
    )
    try:
        q_hat = calib.resolve_uncalibrated(q_hat, largest, num_valid, settings.calibrate.uncalibrated)
    except calib.CalibrationError as error:
        raise ConfigError(f"calibrate.alpha {settings.calibrate.alpha}: {error}") from None
    store.write_thresholds(settings.calibrate.alpha, q_hat, num_valid)
    counts = [tile.held_out for tile in tiles if tile.held_out is not None]
    if not counts:
        return None
    return calib.summarise_coverage(calib.total_counts(counts), np.random.default_rng(settings.seed))


def _facts(
    settings: CalibrateSettings, store: CalibrationStore, held_out: calib.HeldOutCoverage | None
) -> dict[str, Any]:
    q_hat, n_valid = store.q_hat, store.n_valid
    finite = q_hat[np.isfinite(q_hat)]
    uncalibrated = float(np.isposinf(q_hat).mean())
    if uncalibrated:
        fewest = int(n_valid[np.isposinf(q_hat)].min())
        log.warning(
            "calibrate: %.1f %% of the locations have too few labelled images (down to %d) for alpha %g; the smallest "
            "alpha that fits all of them is %g. They are handled by calibrate.uncalibrated: %s",
            100 * uncalibrated, fewest, settings.alpha, calib.smallest_alpha(max(fewest, 1)), settings.uncalibrated,
        )  # fmt: skip
    return {
        "fingerprint": store.fingerprint,
        "alpha": settings.alpha,
        "quantile": settings.quantile,
        "num_labeled": int((store.status == DONE).sum()),
        "num_valid": {"min": int(n_valid.min()), "max": int(n_valid.max())},
        "q_hat": {name: float(f(finite)) for name, f in QUANTILE_FACTS.items()} if finite.size else None,
        "uncalibrated_share": uncalibrated,
        "never_labeled_share": float((n_valid == 0).mean()),
        "held_out": held_out and held_out_facts(held_out, settings),
    }


QUANTILE_FACTS = {"min": np.min, "median": np.median, "mean": np.mean, "max": np.max}


def held_out_facts(held_out: calib.HeldOutCoverage, settings: CalibrateSettings) -> dict[str, Any]:
    """Cross-fitted coverage as it goes into the receipt."""
    log.info(
        "calibrate: held-out coverage %.3f (95 %% interval %.3f to %.3f), target %.3f",
        held_out.coverage, held_out.low, held_out.high, 1 - settings.alpha,
    )  # fmt: skip
    return {
        "target": 1 - settings.alpha,
        "coverage": held_out.coverage,
        "low": held_out.low,
        "high": held_out.high,
        "uncalibrated": held_out.uncalibrated,
        "folds": settings.folds,
    }

"""calibrate: scores of the labelled images, thresholds from them, and what these are worth on held-out images."""

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
from pipeline.held_out import JudgeJob, candidate_rules, find_row, judge_images
from pipeline.labelled_maps import StoredMaps
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

VERSION = 2  # raise it when the same maps and masks would give other thresholds

FEW_IMAGES = 100  # up to which a fold more or less shows in the ranks
NUMBERS = {"min": np.min, "median": np.median, "mean": np.mean, "max": np.max}


def calibrate(settings: Settings) -> dict[str, Any]:
    """Write `calibration.zarr`; raises StoreError without a matching probability cache."""
    start = time.monotonic()
    receipt = read_receipt(settings.folder / "annotate.json", "annotate")
    probabilities = open_probabilities(settings.folder / "probs.zarr", receipt["fingerprint"])
    index = load_samples(settings.folder / "samples.json")
    labeled = index.of("labeled")
    store = _open(settings, probabilities, labeled)
    _score_images(settings, store, probabilities, index, labeled)
    fallen_back = _write_thresholds(settings, store)
    held_out = _judge(settings, store, probabilities)
    store.forget_held_out_thresholds()
    store.finish()
    facts = _facts(settings, store, fallen_back) | {"held_out": held_out}
    return facts | {"seconds": round(time.monotonic() - start, 1)}


def _open(settings: Settings, probabilities: ProbabilityStore, labeled: Sequence[Sample]) -> CalibrationStore:
    path = settings.folder / "calibration.zarr"
    data = settings.data
    facts = {
        "fingerprint": fingerprint(
            {
                "version": VERSION,
                "probabilities": probabilities.fingerprint,
                "settings": settings.calibrate.tracked(),
                "alphas": settings.alphas,
                "background": data.background_index,
                "mask_values": data.mask_values,
                "masks": [[sample.id, sample.mask_digest] for sample in labeled],
            }
        ),
        "class_names": data.class_names,
        "background": data.background_index,
        "alpha": settings.calibrate.alpha,
        "variant": settings.calibrate.variant,
        "class_thresholds": settings.calibrate.class_thresholds,
        "quantile": settings.calibrate.quantile,
    }
    arrays = calibration_arrays(len(labeled), data.grid, data.background_index is not None)
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


def score_image(job: ScoreJob) -> int:
    """Write score, mask and planes of one image on the grid; returns its index."""
    reader = open_probabilities(job.probabilities).probabilities(job.position)
    mask = resize_nearest(job.samples.mask(job.sample, job.data), job.data.grid)
    score = np.empty(mask.shape, np.float32)
    planes = []
    for rows, strip in reader.strips():
        score[rows] = calib.true_class_scores(strip, mask[rows])
        planes.append(calib.class_planes(strip, job.data.background_index))
    named = {name: plane for name, plane in calib.stack_planes(planes)._asdict().items() if plane is not None}
    open_calibration(job.calibration, writable=True).write_image(job.index, {"score": score, "truth": mask, **named})
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
        jobs.append(ScoreJob(*paths, index, sample, settings.data))
    progress = Progress(log, "calibrate", len(labeled), "images", done=len(labeled) - len(jobs))

    def on_done(finished: int) -> None:
        store.mark(finished, DONE)
        progress.advance()

    run_tasks(score_image, jobs, settings.compute, on_done)
    if not (store.status == DONE).any():
        raise StoreError(f"{probabilities.path} has no map of any labelled image; see the failures in annotate.json")


def _write_thresholds(settings: Settings, store: CalibrationStore) -> int:
    """Thresholds from all images, and without each fold; returns the locations that took a pooled threshold."""
    images = np.flatnonzero(store.status == DONE).tolist()
    folds = num_folds(len(images), settings.calibrate)
    fold_of_image = calib.assign_folds(len(images), folds) if folds > 1 else np.zeros(1, np.int64)
    maps = StoredMaps(store.path.absolute(), images, tuple(settings.data.grid), settings.compute)
    policy = settings.calibrate.uncalibrated
    try:
        fits = calib.fit(variant_of(settings), maps, fold_of_image)
        # a promise that is refused is one about new images: folds, which have fewer, only estimate
        fits = [fits[0].resolve(policy), *(fit.resolve("max" if policy == "max" else "abstain") for fit in fits[1:])]
    except calib.CalibrationError as error:
        raise ConfigError(f"calibrate.alpha {', '.join(map(str, settings.alphas))}: {error}") from None
    if fits[0].fallen_back:
        log.info(
            "calibrate: %d of %d locations have fewer than %d valid scores and take the threshold of their %s",
            fits[0].fallen_back, fits[0].region.size, settings.calibrate.n_min, settings.calibrate.fallback,
        )  # fmt: skip
    fold = np.full(len(store.status), -1)
    fold[images] = fold_of_image
    store.write_thresholds(settings.alphas, fits, fold)
    return fits[0].fallen_back


def num_folds(num_images: int, settings: CalibrateSettings) -> int:
    """As many as the settings say; by default many, but no more than can be calibrated in a short time."""
    if settings.folds is not None:
        wanted = settings.folds
    elif num_images > FEW_IMAGES:
        wanted = 10
    else:
        wanted = num_images if settings.variant == "pixel" else 20
    return min(wanted, num_images)


def variant_of(settings: Settings) -> calib.Variant:
    """The settings of the calibration, as the method takes them."""
    chosen = settings.calibrate
    return calib.Variant(
        name=chosen.variant,
        alphas=tuple(settings.alphas),
        quantile=chosen.quantile,
        pooling=chosen.pooling,
        classes=chosen.class_thresholds,
        num_classes=settings.data.num_classes,
        num_regions=chosen.regions,
        solver=chosen.solver,
        class_clusters=chosen.class_clusters,
        n_min=chosen.n_min,
        fallback=chosen.fallback,
        background=settings.data.background_index,
    )


def _judge(settings: Settings, store: CalibrationStore, probabilities: ProbabilityStore) -> dict[str, Any] | None:
    """Facts of the held-out images; None for a single labelled image."""
    fold = store.array("fold")[:]
    images = np.flatnonzero(fold >= 0).tolist()
    if len(images) < 2:
        return None
    position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    ids = store.sample_ids
    jobs = [
        JudgeJob(
            calibration=store.path.absolute(),
            index=i,
            fold=int(fold[i]),
            probabilities=probabilities.path.absolute(),
            position=position[ids[i]],
            rules=candidate_rules(store.is_class_wise, settings.calibrate.variant),
            background=settings.data.background_index,
            accept_uncalibrated=settings.calibrate.uncalibrated == "accept",
        )
        for i in images
    ]
    rows = judge_images(settings, store, jobs)
    _log_row(find_row(rows, settings.calibrate.alpha, settings.pseudolabel.rule) or rows[0])
    return {"folds": int(fold.max()) + 1, "num_images": len(images), "rows": rows}


def _log_row(row: dict[str, Any]) -> None:
    for name in ("coverage", "precision", "keep_rate"):
        if row[name] is not None:
            log.info(
                "calibrate: held-out %s at alpha %g%s: %.3f (95 %% interval %.3f to %.3f)%s",
                name.replace("_", " "), row["alpha"], "" if name == "coverage" else f", rule {row['rule']}",
                *(row[name][end] for end in ("value", "low", "high")),
                f", target {row['target']:g}" if name == "coverage" else "",
            )  # fmt: skip


def _facts(settings: Settings, store: CalibrationStore, fallen_back: int) -> dict[str, Any]:
    n_valid = store.n_valid
    return {
        "fingerprint": store.fingerprint,
        **{name: store.state[name] for name in ("alpha", "variant", "class_thresholds", "quantile")},
        "alphas": store.alphas,
        "num_labeled": int((store.status == DONE).sum()),
        "num_valid": {"min": int(n_valid.min()), "max": int(n_valid.max())},
        "never_labeled_share": float((n_valid == 0).mean()),
        "fallen_back": fallen_back,
        "thresholds": [_threshold_facts(settings.calibrate, store, alpha, n_valid) for alpha in store.alphas],
    }


def _threshold_facts(
    settings: CalibrateSettings, store: CalibrationStore, alpha: float, n_valid: npt.NDArray[np.int32]
) -> dict[str, Any]:
    q_hat = store.q_hat(alpha)
    finite, uncalibrated = q_hat[np.isfinite(q_hat)], np.isposinf(q_hat)
    if uncalibrated.any():
        fewest = int(n_valid[uncalibrated].min())
        log.warning(
            "calibrate: %.1f %% of the thresholds have too few labelled images (down to %d) for alpha %g; the smallest "
            "alpha that fits all of them is %g. They are handled by calibrate.uncalibrated: %s",
            100 * uncalibrated.mean(), fewest, alpha, calib.smallest_alpha(max(fewest, 1)), settings.uncalibrated,
        )  # fmt: skip
    return {
        "alpha": alpha,
        "q_hat": {name: float(f(finite)) for name, f in NUMBERS.items()} if finite.size else None,
        "uncalibrated_share": float(uncalibrated.mean()),
    }

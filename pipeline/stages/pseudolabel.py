"""pseudolabel: calibrated labels of the unlabelled images, NaN where no class can be vouched for (paper Eq. 4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.config import Settings
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample, load_samples
from pipeline.progress import Progress
from pipeline.receipt import fingerprint, read_receipt
from pipeline.store import (
    DONE,
    FAILED,
    OUTCOMES,
    CalibrationStore,
    LabelStore,
    ProbabilityStore,
    label_arrays,
    open_calibration,
    open_labels,
    open_probabilities,
    resume_or_create,
)

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same maps and thresholds would give other labels


def pseudolabel(settings: Settings) -> dict[str, Any]:
    """Write `labels.zarr`, going on where an earlier run stopped; raises StoreError without matching inputs."""
    start = time.monotonic()
    folder = settings.folder
    calibrated = read_receipt(folder / "calibrate.json", "calibrate")["fingerprint"]
    annotated = read_receipt(folder / "annotate.json", "annotate")["fingerprint"]
    calibration = open_calibration(folder / "calibration.zarr", calibrated)
    probabilities = open_probabilities(folder / "probs.zarr", annotated)
    unlabeled = load_samples(folder / "samples.json").of("unlabeled")
    store = _open(settings, calibration, probabilities, unlabeled)
    _label_images(settings, store, calibration, probabilities)
    store.finish()
    return _facts(store) | {"seconds": round(time.monotonic() - start, 1)}


def _open(
    settings: Settings, calibration: CalibrationStore, probabilities: ProbabilityStore, unlabeled: Sequence[Sample]
) -> LabelStore:
    data = settings.data
    facts = {
        "fingerprint": fingerprint(
            {
                "version": VERSION,
                "calibration": calibration.fingerprint,
                "probabilities": probabilities.fingerprint,
                "settings": settings.pseudolabel.tracked(),
                "uncalibrated": settings.calibrate.uncalibrated,
                "background": data.background_index,
                "samples": [sample.id for sample in unlabeled],
            }
        ),
        "class_names": data.class_names,
        "background": data.background_index,
        "alpha": settings.calibrate.alpha,
        "rule": settings.pseudolabel.rule,
        "annotator": probabilities.state["annotator"],
    }
    path = settings.folder / "labels.zarr"
    arrays = label_arrays(len(unlabeled), data.grid, data.num_classes, data.background_index is not None)
    resume_or_create(path, "labels", facts, unlabeled, arrays)
    return open_labels(path, writable=True)


class LabelJob(NamedTuple):
    """One unlabelled image: where its maps are, and where its labels go."""

    probabilities: Path
    position: int
    calibration: Path
    labels: Path
    index: int
    rule: calib.Rule
    accept_uncalibrated: bool
    tile_megabytes: int


class LabeledImage(NamedTuple):
    """What became of one image: its pixels by outcome (`store.OUTCOMES`) and by class."""

    index: int
    outcomes: npt.NDArray[np.int32]
    class_pixels: npt.NDArray[np.int32]


def label_image(job: LabelJob) -> LabeledImage:
    """Label one image on the grid, in row strips, and write its label and planes."""
    store = open_labels(job.labels, writable=True)
    background = store.state["background"]
    q_hat = open_calibration(job.calibration).q_hat
    strips = open_probabilities(job.probabilities).probabilities(job.position).strips(job.tile_megabytes)
    planes = _stack([calib.class_planes(strip, background) for _, strip in strips])
    uncalibrated = "accept" if job.accept_uncalibrated else "abstain"
    label = calib.label_pixels(planes, q_hat, job.rule, background, uncalibrated)  # type: ignore[arg-type]
    named = {name: plane for name, plane in planes._asdict().items() if plane is not None}
    store.write(job.index, {"label": label, **named})
    counts = calib.summarise_labels(planes, q_hat, label, background)
    class_pixels = np.bincount(label[~np.isnan(label)].astype(np.intp), minlength=len(store.class_names))
    outcomes = np.array([getattr(counts, name) for name in OUTCOMES], np.int32)
    return LabeledImage(job.index, outcomes, class_pixels.astype(np.int32))


def _stack(strips: Sequence[calib.Planes]) -> calib.Planes:
    columns = zip(*strips, strict=True)
    return calib.Planes(*(None if parts[0] is None else np.concatenate(parts) for parts in columns))


def _label_images(
    settings: Settings, store: LabelStore, calibration: CalibrationStore, probabilities: ProbabilityStore
) -> None:
    position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    annotated, ids = probabilities.status, store.sample_ids
    jobs = []
    for i in np.flatnonzero(store.status != DONE).tolist():
        if annotated[position[ids[i]]] != DONE:
            store.mark(i, FAILED)
            continue
        jobs.append(
            LabelJob(
                probabilities=probabilities.path.absolute(),
                position=position[ids[i]],
                calibration=calibration.path.absolute(),
                labels=store.path.absolute(),
                index=i,
                rule=settings.pseudolabel.rule,
                accept_uncalibrated=settings.calibrate.uncalibrated == "accept",
                tile_megabytes=settings.compute.tile_megabytes,
            )
        )
    progress = Progress(log, "pseudolabel", len(ids), "images", done=len(ids) - len(jobs))

    def on_done(image: LabeledImage) -> None:
        store.write_counts(image.index, image.outcomes, image.class_pixels)
        store.mark(image.index, DONE)
        progress.advance()

    run_tasks(label_image, jobs, settings.compute, on_done)


def _facts(store: LabelStore) -> dict[str, Any]:
    outcomes, class_pixels = store.outcome_pixels, store.class_pixels
    done = store.status == DONE
    totals = dict(zip(OUTCOMES, outcomes[done].sum(axis=0, dtype=np.int64).tolist(), strict=True))
    keep_rates = outcomes[done, OUTCOMES.index("kept")] / outcomes[done, OUTCOMES.index("pixels")]
    return {
        "fingerprint": store.fingerprint,
        "rule": store.state["rule"],
        "num_images": int(done.sum()),
        "num_failed": int((store.status == FAILED).sum()),
        "pixels": totals,
        "keep_rate": totals["kept"] / max(totals["pixels"], 1),
        "keep_rate_deciles": np.quantile(keep_rates, np.linspace(0, 1, 11)).tolist() if done.any() else [],
        "pixels_per_class": dict(zip(store.class_names, class_pixels[done].sum(axis=0).tolist(), strict=True)),
    }

"""The audit of a run: its labels compared with the masks of unlabeled images, one task per image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample, evenly_spaced, resize_nearest
from pipeline.errors import DatasetError
from pipeline.progress import Progress
from pipeline.report import audit
from pipeline.report.inputs import Inputs
from pipeline.settings import Settings
from pipeline.sources import TrueMasks
from pipeline.store import DONE, Handle, open_calibration, open_labels, open_probabilities

log = logging.getLogger(__name__)

AUDIT_IMAGES = 1000  # about 100 seconds on 2 cores (11 classes of 360 x 480); more would change the numbers very little


class AuditJob(NamedTuple):
    """One unlabeled image and its mask, which no earlier stage has opened.

    index, position: of the image in the labels and in the maps
    """

    mask: Path
    sample: Sample
    true_masks: TrueMasks
    labels: Handle
    index: int
    calibration: Handle
    probabilities: Handle | None
    position: int


def audit_run(inputs: Inputs, settings: Settings) -> dict[str, Any] | None:
    """Compare labels with the masks of unlabeled images; None if there is no such mask."""
    jobs = audit_jobs(inputs, settings)
    chosen = evenly_spaced(jobs, AUDIT_IMAGES)
    if not chosen:
        return None
    progress = Progress(log, "report: audit", len(chosen), "images")
    results: list[audit.AuditCounts | None] = []

    def on_done(result: audit.AuditCounts | None) -> None:
        results.append(result)
        progress.advance()

    run_tasks(audit_image, chosen, settings.compute, on_done)
    counts, names = [result for result in results if result is not None], inputs.labels.class_names
    return {
        "num_images": len(counts),
        "num_with_mask": len(jobs),
        "num_unreadable": len(results) - len(counts),
        **audit.summarise(audit.total(counts, len(names)), names),
    }


def audit_jobs(inputs: Inputs, settings: Settings) -> list[AuditJob]:
    """A job for every unlabeled image that has a pseudo-label and a mask."""
    position: dict[str, int] = {}
    if inputs.probabilities is not None:
        position = {i: p for p, i in enumerate(inputs.probabilities.sample_ids)}
    jobs = []
    for i, (sample, status) in enumerate(zip(inputs.samples.of("unlabeled"), inputs.labels.status, strict=True)):
        mask = inputs.true_masks.path(sample)
        if mask is None or status != DONE:
            continue
        jobs.append(
            AuditJob(
                mask=mask.absolute(),
                sample=sample,
                true_masks=inputs.true_masks.of(sample),
                labels=inputs.labels.handle,
                index=i,
                calibration=inputs.calibration.handle,
                probabilities=inputs.probabilities and inputs.probabilities.handle,
                position=position.get(sample.id, -1),
            )
        )
    return jobs


def audit_image(job: AuditJob) -> audit.AuditCounts | None:
    """Counts of one image on the grid; None if its mask cannot be read."""
    mask = read_truth(job.true_masks, job.mask, job.sample)
    if mask is None:
        return None
    truth = resize_nearest(mask, job.true_masks.data.grid)
    labels = open_labels(job.labels)
    num_classes = len(labels.class_names)
    counts = audit.count_labels(truth, labels.raw_argmax(job.index), labels.label(job.index), num_classes)
    if job.probabilities is None:
        return counts
    state = labels.state
    q_hat = audit.own_thresholds(open_calibration(job.calibration).q_hat(state["alpha"], state["variant"]), truth)
    strips = open_probabilities(job.probabilities).probabilities(job.position).strips()
    scores = ((rows, calib.true_class_scores(strip, truth[rows])) for rows, strip in strips)
    covered = (audit.count_covered(score, q_hat[rows], num_classes) for rows, score in scores)
    return audit.total([counts, *covered], num_classes)


def read_truth(true_masks: TrueMasks, path: Path | None, sample: Sample) -> npt.NDArray[np.uint8] | None:
    """uint8 [H, W] class index, IGNORE_INDEX = void: a mask that `prepare` did not check; None if it cannot be used."""
    try:
        return None if path is None else true_masks.read(path, sample)
    except DatasetError as error:
        log.warning("report: %s is left out of the audit: %s", path, error)
        return None

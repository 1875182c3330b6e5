"""report: everything that ran and what came out of it, in one self-contained HTML file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

import calib
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import (
    Sample,
    SampleIndex,
    evenly_spaced,
    example_samples,
    load_samples,
    read_mask,
    resize_nearest,
)
from pipeline.errors import DatasetError, StoreError
from pipeline.gallery import gallery_fragment
from pipeline.palette import class_colours
from pipeline.progress import Progress
from pipeline.receipt import read_receipt
from pipeline.report import audit, page
from pipeline.report.examples import Example, example
from pipeline.report.probe import probe_receipt
from pipeline.settings import DataSettings, Settings
from pipeline.sources import truth_path
from pipeline.store import (
    DONE,
    OUTCOMES,
    CalibrationStore,
    LabelStore,
    open_calibration,
    open_labels,
    open_probabilities,
    store_exists,
)

log = logging.getLogger(__name__)

AUDIT_IMAGES = 1000  # about 100 seconds on 2 cores (11 classes of 360 x 480); more would hardly change the numbers
MAX_EXAMPLES = 12
LABELING = ("prepare", "annotate", "calibrate", "pseudolabel")
TRAINING = ("stage1", "stage2", "evaluate")


class Run(NamedTuple):
    """What earlier stages left behind; `probabilities` is None if that cache was deleted.

    The labels say at which alpha they were made: rule auto may have taken another than calibrate.alpha.
    """

    receipts: dict[str, dict[str, Any]]
    samples: SampleIndex
    probabilities: Path | None
    calibration: CalibrationStore
    labels: LabelStore


def report(settings: Settings) -> dict[str, Any]:
    """Write `report.html`; raises StoreError until the pseudo-labels are there. Training is shown as far as it went.

    Of a run without an annotator that is all there is, and it must be finished.
    """
    start = time.monotonic()
    if settings.needs_annotator or (settings.folder / "pseudolabel.json").is_file():
        run = open_run(settings)
        audited = audit_run(run, settings)
        examples = draw_examples(run, settings)
        html = page.render(page_content(run, settings, audited, examples))
    else:
        audited = None
        examples, html = page_without_labels(settings)
    path = settings.folder / "report.html"
    write_text(path, html)
    log.info("report: %s, %.1f MB", path, len(html.encode()) / 1e6)
    return {
        "audit": audited,
        "examples": [shown.id for shown in examples],
        "megabytes": round(len(html.encode()) / 1e6, 2),
        "seconds": round(time.monotonic() - start, 1),
    }


def open_run(settings: Settings) -> Run:
    """Receipts and stores; StoreError unless they belong together."""
    folder = settings.folder
    receipts = {stage: read_receipt(folder / f"{stage}.json", stage) for stage in LABELING}
    samples = load_samples(folder / "samples.json")
    labels = open_labels(folder / "labels.zarr", receipts["pseudolabel"]["fingerprint"])
    unlabeled = [sample.id for sample in samples.of("unlabeled")]
    if labels.sample_ids != unlabeled or labels.class_names != settings.data.class_names:
        raise StoreError(
            f"{labels.path} has other images or classes than this run; run snakemake --cores 8 pseudolabel"
        )
    calibration = open_calibration(folder / "calibration.zarr", receipts["calibrate"]["fingerprint"])
    refuse_other_thresholds(labels, calibration)
    receipts |= probe_receipt(folder, calibration.fingerprint)
    receipts |= training_receipts(folder, labels.fingerprint)
    probabilities = folder / "probs.zarr" if store_exists(folder / "probs.zarr") else None
    return Run(receipts, samples, probabilities, calibration, labels)


def refuse_other_thresholds(labels: LabelStore, calibration: CalibrationStore) -> None:
    """StoreError if the labels were not made by these thresholds, as after a calibration that they did not follow."""
    alpha, variant = labels.state["alpha"], labels.state["variant"]
    made_by = labels.state["calibration"]
    is_same_variant = alpha in calibration.alphas and variant in calibration.variants
    if made_by != calibration.fingerprint or not is_same_variant:
        has = ", ".join(f"{known:g}" for known in calibration.alphas)
        raise StoreError(
            f"{labels.path} was made by other thresholds (alpha {alpha:g}, variant {variant}) than {calibration.path} "
            f"has now (alpha {has}, variant {', '.join(calibration.variants)}); run snakemake --cores 8 pseudolabel"
        )


def training_receipts(folder: Path, labels_fingerprint: str) -> dict[str, dict[str, Any]]:
    """Receipts of the training stages that have finished; none of a student that learnt from other labels."""
    paths = {stage: folder / f"{stage}.json" for stage in TRAINING}
    receipts = {stage: read_receipt(path, stage) for stage, path in paths.items() if path.is_file()}
    learnt_from = receipts.get("stage1", {}).get("labels_fingerprint", "nothing")
    if receipts and learnt_from not in (labels_fingerprint, None):  # None: it learnt from the labelled images alone
        log.warning("report: the student in %s learnt from other labels and is left out; rerun stage1", folder)
        return {}
    return receipts


def page_without_labels(settings: Settings) -> tuple[list[Example], str]:
    """Examples and page of a run that had no annotator."""
    folder, data = settings.folder, settings.data
    index = load_samples(folder / "samples.json")
    receipts = {"prepare": read_receipt(folder / "prepare.json", "prepare")}
    for stage in TRAINING:
        receipts[stage] = read_receipt(folder / f"{stage}.json", stage)
    colours = class_colours(data.num_classes, data.background_index)
    samples = example_samples(index, settings.evaluate.num_examples)
    examples = []
    for i in evenly_spaced(range(len(samples)), MAX_EXAMPLES):
        sample = samples[i]
        shown = {"student": example_prediction(settings, sample), "truth": example_truth(settings, sample)}
        examples.append(example(sample.id, index.image(sample), shown, data.class_names, colours))
    content = page.ContentWithoutLabels(settings.name, data.class_names, data.background_index, receipts, examples)
    return examples, page.render_without_labels(content)


class AuditJob(NamedTuple):
    """One unlabelled image and its mask, which no stage before this one has opened."""

    mask: Path
    data: DataSettings
    labels: Path
    place: int
    calibration: Path
    probabilities: Path | None
    position: int


def audit_run(run: Run, settings: Settings) -> dict[str, Any] | None:
    """Measure labels against the masks of unlabelled images; None if there is no such mask."""
    jobs = audit_jobs(run, settings)
    chosen = evenly_spaced(jobs, AUDIT_IMAGES)
    if not chosen:
        return None
    progress = Progress(log, "report: audit", len(chosen), "images")
    results: list[audit.AuditCounts | None] = []

    def on_done(result: audit.AuditCounts | None) -> None:
        results.append(result)
        progress.advance()

    run_tasks(audit_image, chosen, settings.compute, on_done)
    counts, names = [result for result in results if result is not None], run.labels.class_names
    return {
        "num_images": len(counts),
        "num_with_mask": len(jobs),
        "num_unreadable": len(results) - len(counts),
        **audit.summarise(audit.total(counts, len(names)), names),
    }


def audit_jobs(run: Run, settings: Settings) -> list[AuditJob]:
    """A job for every unlabelled image that has a pseudo-label and, by chance, a mask."""
    position: dict[str, int] = {}
    if run.probabilities is not None:
        fingerprint = run.receipts["annotate"]["fingerprint"]
        position = {i: p for p, i in enumerate(open_probabilities(run.probabilities, fingerprint).sample_ids)}
    jobs = []
    for i, (sample, status) in enumerate(zip(run.samples.of("unlabeled"), run.labels.status, strict=True)):
        mask = truth_path(sample, settings.data)
        if mask is None or status != DONE:
            continue
        jobs.append(
            AuditJob(
                mask=mask.absolute(),
                data=settings.data,
                labels=run.labels.path.absolute(),
                place=i,
                calibration=run.calibration.path.absolute(),
                probabilities=run.probabilities and run.probabilities.absolute(),
                position=position.get(sample.id, -1),
            )
        )
    return jobs


def audit_image(job: AuditJob) -> audit.AuditCounts | None:
    """Counts of one image on the grid; None if its mask cannot be read."""
    mask = read_truth(job.mask, job.data)
    if mask is None:
        return None
    truth = resize_nearest(mask, job.data.grid)
    labels = open_labels(job.labels)
    num_classes = len(labels.class_names)
    counts = audit.count_labels(truth, labels.raw_argmax(job.place), labels.label(job.place), num_classes)
    if job.probabilities is None:
        return counts
    state = labels.state
    q_hat = audit.own_thresholds(open_calibration(job.calibration).q_hat(state["alpha"], state["variant"]), truth)
    strips = open_probabilities(job.probabilities).probabilities(job.position).strips()
    scores = ((rows, calib.true_class_scores(strip, truth[rows])) for rows, strip in strips)
    covered = (audit.count_covered(score, q_hat[rows], num_classes) for rows, score in scores)
    return audit.total([counts, *covered], num_classes)


def read_truth(path: Path | None, data: DataSettings) -> npt.NDArray[np.uint8] | None:
    """A mask that `prepare` did not check: None if there is none or it cannot be read."""
    try:
        return None if path is None else read_mask(path, data)
    except (DatasetError, OSError, SyntaxError, ValueError) as error:
        log.warning("report: %s is left out of the audit: %s", path, error)
        return None


def draw_examples(run: Run, settings: Settings) -> list[Example]:
    """Pictures of the images whose predictions `evaluate` keeps."""
    samples = example_samples(run.samples, settings.evaluate.num_examples)
    position = {sample_id: i for i, sample_id in enumerate(run.labels.sample_ids)}
    colours = class_colours(len(run.labels.class_names), run.labels.state["background"])
    examples = []
    for i in evenly_spaced(range(len(samples)), MAX_EXAMPLES):
        sample = samples[i]
        shown = example_labels(run, settings, sample, position[sample.id])
        examples.append(example(sample.id, run.samples.image(sample), shown, run.labels.class_names, colours))
    return examples


def example_labels(
    run: Run, settings: Settings, sample: Sample, index: int
) -> Mapping[str, npt.NDArray[np.generic] | None]:
    """What each panel of an example shows, None for what does not exist."""
    is_done = run.labels.status[index] == DONE
    return {
        "raw": run.labels.raw_argmax(index) if is_done else None,
        "calibrated": run.labels.label(index) if is_done else None,
        "student": example_prediction(settings, sample) if "evaluate" in run.receipts else None,
        "truth": example_truth(settings, sample),
    }


def example_prediction(settings: Settings, sample: Sample) -> npt.NDArray[np.uint8] | None:
    """uint8 [H, W] class index, as `evaluate` wrote it; None if it did not."""
    path = settings.folder / "evaluate" / f"{sample.id}.png"
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.uint8)


def example_truth(settings: Settings, sample: Sample) -> npt.NDArray[np.uint8] | None:
    return read_truth(truth_path(sample, settings.data), settings.data)


def page_content(run: Run, settings: Settings, audited: dict[str, Any] | None, examples: list[Example]) -> page.Content:
    """All that the page shows."""
    return page.Content(
        name=settings.name,
        class_names=run.labels.class_names,
        background=run.labels.state["background"],
        receipts=run.receipts,
        audit=audited,
        audit_limit=AUDIT_IMAGES,
        q_hat=run.calibration.q_hat(run.labels.state["alpha"], run.labels.state["variant"]),
        keep_rates=keep_rates(run.labels),
        examples=examples,
        gallery=gallery_fragment(settings) if settings.gallery.in_report else None,
    )


def keep_rates(labels: LabelStore) -> npt.NDArray[np.float64]:
    """float64 [N], share of the pixels kept of each image that has a label."""
    pixels = labels.outcome_pixels[labels.status == DONE]
    rates: npt.NDArray[np.float64] = pixels[:, OUTCOMES.index("kept")] / pixels[:, OUTCOMES.index("pixels")]
    return rates


def write_text(path: Path, text: str) -> None:
    """Write atomically."""
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)

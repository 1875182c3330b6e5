"""report: all stages of a run and their results, in one self-contained HTML file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.held_out_labels import HeldOutLabels, held_out_labels
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample, SampleIndex, evenly_spaced, example_samples, resize_nearest
from pipeline.errors import DatasetError
from pipeline.experiment.baseline import against_baseline
from pipeline.files import write_text
from pipeline.gallery import gallery_fragment
from pipeline.images import PixelLimit, load_mask, read_content
from pipeline.palette import class_colours
from pipeline.progress import Progress
from pipeline.report import audit, mistakes, page
from pipeline.report.examples import Example, example
from pipeline.report.imported import import_change
from pipeline.report.probe import probe_receipt
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources import TrueMasks
from pipeline.store import (
    DONE,
    OUTCOMES,
    CalibrationStore,
    Handle,
    LabelStore,
    ProbabilityStore,
    open_calibration,
    open_labels,
    open_probabilities,
    store_exists,
)

log = logging.getLogger(__name__)

AUDIT_IMAGES = 1000  # about 100 seconds on 2 cores (11 classes of 360 x 480); more would change the numbers very little
MAX_EXAMPLES = 12
LABELING = ("prepare", "annotate", "calibrate", "pseudolabel")
TRAINING = ("stage1", "stage2", "evaluate")


class Inputs(NamedTuple):
    """Results of the earlier stages; `probabilities` is None if that cache was deleted.

    The alpha of the labels is in the label store: rule auto may have chosen another one than calibrate.alpha.
    """

    receipts: dict[str, Mapping[str, Any]]
    samples: SampleIndex
    true_masks: TrueMasks
    probabilities: ProbabilityStore | None
    calibration: CalibrationStore
    labels: LabelStore


def report(settings: Settings) -> dict[str, Any]:
    """Write `report.html`; returns the facts of the receipt. Training stages are shown if they have finished.

    raises: StoreError if the pseudo-labels do not exist or, in a run without an annotator, training has not finished
    """
    start = time.monotonic()
    if settings.needs_annotator or Run(settings).has_receipt("pseudolabel"):
        inputs = open_inputs(settings)
        audited = audit_run(inputs, settings)
        examples = draw_examples(inputs, settings)
        html = page.render(page_content(inputs, settings, audited, examples))
    else:
        audited = None
        examples, html = page_without_labels(settings)
    run = Run(settings)
    path = run.folder.report
    run.begin("report")
    write_text(path, html)
    log.info("report: %s, %.1f MB", path, len(html.encode()) / 1e6)
    return {
        "audit": audited,
        "examples": [shown.id for shown in examples],
        "megabytes": round(len(html.encode()) / 1e6, 2),
        "seconds": round(time.monotonic() - start, 1),
    }


def open_inputs(settings: Settings) -> Inputs:
    """Receipts and stores; StoreError unless they belong together."""
    run = Run(settings)
    receipts: dict[str, Mapping[str, Any]] = {stage: run.receipt(stage) for stage in LABELING}
    calibration, labels = run.open_calibration(), run.open_labels()
    receipts |= probe_receipt(run, calibration.fingerprint)
    receipts |= training_receipts(run, labels.fingerprint) | baseline_receipt(run)
    probabilities = run.open_probabilities() if store_exists(run.folder.probabilities) else None
    samples = run.samples("report")
    return Inputs(receipts, samples, TrueMasks.like_labeled(samples, settings.data), probabilities, calibration, labels)


def baseline_receipt(run: Run) -> dict[str, Mapping[str, Any]]:
    """`{"baseline": receipt}`; {} if it has not finished with these settings, images and masks."""
    return {"baseline": run.recorded("baseline")} if run.is_current("baseline") else {}


def gap_to_baseline(settings: Settings) -> dict[str, float] | None:
    """mIoU of the student minus that of the baseline: value, low and high; None without a baseline."""
    gap = against_baseline(settings)
    return None if gap is None else gap._asdict()


def training_receipts(run: Run, labels_fingerprint: str) -> dict[str, Mapping[str, Any]]:
    """Receipts of the training stages that have finished; {} if the student was trained on other labels.

    raises: StoreError if a student was trained again since it was measured
    """
    receipts: dict[str, Mapping[str, Any]] = {
        stage: run.recorded(stage) for stage in TRAINING if run.has_receipt(stage)
    }
    trained_on = receipts.get("stage1", {}).get("labels_fingerprint", "unknown")
    if receipts and trained_on not in (labels_fingerprint, None):  # None: trained on the labeled images alone
        log.warning(
            "report: the student in %s was trained on other labels and is left out; run %s",
            run.folder.path,
            run.command("evaluate", rerun="stage1"),
        )
        return {}
    if run.has_receipt("evaluate"):
        run.refuse_other_students(run.recorded("evaluate"))
    return receipts


def page_without_labels(settings: Settings) -> tuple[list[Example], str]:
    """Examples and HTML of a run without an annotator."""
    run, data = Run(settings), settings.data
    index = run.samples("report")
    receipts: dict[str, Mapping[str, Any]] = {stage: run.receipt(stage) for stage in ("prepare", *TRAINING)}
    receipts |= baseline_receipt(run)
    colours = class_colours(data.num_classes, data.background_index)
    samples = example_samples(index, settings.evaluate.num_examples)
    examples, true_masks = [], TrueMasks.like_labeled(index, data)
    for i in evenly_spaced(range(len(samples)), MAX_EXAMPLES):
        sample = samples[i]
        shown = {"student": example_prediction(settings, sample), "truth": example_truth(true_masks, index, sample)}
        examples.append(example(sample.id, index.image(sample), shown, data.class_names, colours))
    names = settings.name, data.class_names, data.background_index
    content = page.ContentWithoutLabels(*names, receipts, examples, gap_to_baseline(settings), run)
    return examples, page.render_without_labels(content)


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


def draw_examples(inputs: Inputs, settings: Settings) -> list[Example]:
    """Pictures of the images whose predictions `evaluate` stores, the one with the lowest keep rate first."""
    position = {sample_id: i for i, sample_id in enumerate(inputs.labels.sample_ids)}
    colours = class_colours(len(inputs.labels.class_names), inputs.labels.state["background"])
    kept = inputs.labels.outcome_pixels[:, OUTCOMES.index("kept")]
    samples = evenly_spaced(example_samples(inputs.samples, settings.evaluate.num_examples), MAX_EXAMPLES)
    examples = []
    for sample in sorted(samples, key=lambda sample: kept[position[sample.id]]):
        shown = example_labels(inputs, settings, sample, position[sample.id])
        examples.append(example(sample.id, inputs.samples.image(sample), shown, inputs.labels.class_names, colours))
    return examples


def example_labels(
    inputs: Inputs, settings: Settings, sample: Sample, index: int
) -> Mapping[str, npt.NDArray[np.generic] | None]:
    """Panel -> [H, W] class index shown in it; None if it does not exist. index: of the image in the labels"""
    is_done = inputs.labels.status[index] == DONE
    return {
        "raw": inputs.labels.raw_argmax(index) if is_done else None,
        "calibrated": inputs.labels.label(index) if is_done else None,
        "student": example_prediction(settings, sample) if "evaluate" in inputs.receipts else None,
        "truth": example_truth(inputs.true_masks, inputs.samples, sample),
    }


def example_prediction(settings: Settings, sample: Sample) -> npt.NDArray[np.uint8] | None:
    """uint8 [H, W] class index, as `evaluate` wrote it; None if the file does not exist; StoreError if it changed."""
    path = Run(settings).folder.prediction(sample.id)
    if not path.is_file():
        return None
    Run(settings).check_file("evaluate", path)
    image = load_mask(read_content(path), path, PixelLimit(settings.data.max_pixels)).picture
    return np.asarray(image, dtype=np.uint8)


def example_truth(true_masks: TrueMasks, index: SampleIndex, sample: Sample) -> npt.NDArray[np.uint8] | None:
    """uint8 [H, W] class index, IGNORE_INDEX = void; None without a mask that can be used."""
    if sample.mask is not None:
        return index.mask(sample, true_masks.data)
    return read_truth(true_masks, true_masks.path(sample), sample)


def held_out_of(inputs: Inputs, settings: Settings) -> HeldOutLabels | None:
    """The labels of the held-out images, of the rule in use; None if no image can be held out."""
    labels = inputs.receipts["pseudolabel"]
    used = labels["variant"], labels["alpha"], labels["rule"]
    return held_out_labels(settings, inputs.calibration, inputs.probabilities, used)


def worst_labeled(
    inputs: Inputs, held_out: HeldOutLabels | None, images: list[mistakes.ImageMistakes]
) -> list[Example]:
    """Pictures of the held-out images with the most wrong labels."""
    if held_out is None:
        return []
    colours = class_colours(len(inputs.labels.class_names), inputs.labels.state["background"])
    return mistakes.worst_examples(held_out, images, inputs.samples, colours)


def page_content(
    inputs: Inputs, settings: Settings, audited: dict[str, Any] | None, examples: list[Example]
) -> page.Content:
    """Everything that the page shows."""
    held_out, run = held_out_of(inputs, settings), Run(settings)
    images = [] if held_out is None else mistakes.count_mistakes(held_out)
    names = inputs.labels.class_names
    return page.Content(
        name=settings.name,
        class_names=names,
        background=inputs.labels.state["background"],
        receipts=inputs.receipts,
        audit=audited,
        audit_limit=AUDIT_IMAGES,
        q_hat=inputs.calibration.q_hat(inputs.labels.state["alpha"], inputs.labels.state["variant"]),
        keep_rates=keep_rates(inputs.labels),
        examples=examples,
        worst=worst_labeled(inputs, held_out, images),
        mistakes=mistakes.summarise_mistakes(images, names) if images else None,
        imported=import_change(run, inputs.samples, images, inputs.receipts),
        against_baseline=gap_to_baseline(settings) if "evaluate" in inputs.receipts else None,
        run=run,
        gallery=gallery_fragment(settings) if settings.gallery.in_report else None,
    )


def keep_rates(labels: LabelStore) -> npt.NDArray[np.float64]:
    """float64 [N], in [0, 1]: fraction of the pixels that are labeled, of each image that is done."""
    pixels = labels.outcome_pixels[labels.status == DONE]
    rates: npt.NDArray[np.float64] = pixels[:, OUTCOMES.index("kept")] / pixels[:, OUTCOMES.index("pixels")]
    return rates

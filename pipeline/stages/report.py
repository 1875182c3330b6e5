"""report: all stages of a run and their results, in one self-contained HTML file."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.calibration.held_out_labels import HeldOutLabels, held_out_labels
from pipeline.datasets import Sample, SampleIndex, evenly_spaced, example_samples
from pipeline.experiment.baseline import against_baseline
from pipeline.files import write_text
from pipeline.gallery import gallery_fragment
from pipeline.images import PixelLimit, load_mask, read_content
from pipeline.palette import class_colours
from pipeline.report import mistakes, page, run_audit
from pipeline.report.examples import Example, example
from pipeline.report.imported import import_change
from pipeline.report.inputs import TRAINING, Inputs, baseline_receipt, open_inputs
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources import TrueMasks
from pipeline.store import DONE, OUTCOMES, LabelStore

log = logging.getLogger(__name__)

MAX_EXAMPLES = 12


def report(settings: Settings) -> dict[str, Any]:
    """Write `report.html`; returns the facts of the receipt. Training stages are shown if they have finished.

    raises: StoreError if the pseudo-labels do not exist or, in a run without an annotator, training has not finished
    """
    start = time.monotonic()
    if settings.needs_annotator or Run(settings).has_receipt("pseudolabel"):
        inputs = open_inputs(settings)
        audited = run_audit.audit_run(inputs, settings)
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


def gap_to_baseline(settings: Settings) -> dict[str, float] | None:
    """mIoU of the student minus that of the baseline: value, low and high; None without a baseline."""
    gap = against_baseline(settings)
    return None if gap is None else gap._asdict()


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
    return run_audit.read_truth(true_masks, true_masks.path(sample), sample)


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
        audit_limit=run_audit.AUDIT_IMAGES,
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

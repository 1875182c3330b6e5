"""The student measured on the val images at their own size, and a few of its predictions kept for the report."""

from __future__ import annotations

import logging
import math
import shutil
import time
from typing import Any

import torch
from PIL import Image

from pipeline.config import Settings
from pipeline.datasets import SampleIndex, example_samples, load_samples
from pipeline.errors import TrainingError
from pipeline.progress import Progress
from pipeline.receipt import read_receipt
from train.compute import compute_of
from train.data import WholeImages, whole_images
from train.loop import Validate
from train.metrics import Confusion, confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from train.student import Student, load_model

log = logging.getLogger(__name__)

STAGES = ("stage1", "stage2")


def evaluate(settings: Settings) -> dict[str, Any]:
    """Measure the student of every finished stage; returns facts for the receipt.

    Reads samples.json and the students; writes evaluate/ID.png, what the last student predicts for a few unlabelled
    images (grey PNG, class index, the image's own size).
    raises: DatasetError without samples; TrainingError without a finished stage
    """
    start = time.monotonic()
    index = load_samples(settings.folder / "samples.json")
    students = {stage: student_of(settings, stage) for stage in finished_stages(settings)}
    val = WholeImages(index, index.of("val"), settings.data)
    measured = {stage: measure(stage, student, val, settings) for stage, student in students.items()}
    examples = write_examples(list(students.values())[-1], index, settings)
    return {
        "num_val": len(val),
        "students": measured,
        "final": list(students)[-1],
        "examples": examples,
        "seconds": round(time.monotonic() - start, 1),
    }


def finished_stages(settings: Settings) -> list[str]:
    """Stages that have a receipt; TrainingError if none has, or if Stage II belongs to another Stage I."""
    receipts = {stage: settings.folder / f"{stage}.json" for stage in STAGES}
    facts = {stage: read_receipt(path, stage) for stage, path in receipts.items() if path.is_file()}
    if not facts:
        raise TrainingError(f"no student in {settings.folder}; run snakemake --cores 8 stage1")
    if len(facts) == 2 and facts["stage2"]["stage1_fingerprint"] != facts["stage1"]["fingerprint"]:
        raise TrainingError(f"stage2 in {settings.folder} goes on from another stage1; run snakemake --cores 8 stage2")
    return list(facts)


def student_of(settings: Settings, stage: str) -> Student:
    return Student(load_model(settings.folder / stage / "student"), compute_of(settings.train))


def measure(stage: str, student: Student, images: WholeImages, settings: Settings) -> dict[str, Any]:
    """Confusion matrix and the scores read from it; None for a class that is neither there nor predicted."""
    progress = Progress(log, f"evaluate {stage}", len(images), "images")
    confusion = confusion_of(student, images, settings.evaluate.workers, progress)
    iou = [None if math.isnan(value) else value for value in iou_per_class(confusion).tolist()]
    names = settings.data.class_names
    facts = {
        "miou": _none_if_nan(mean_iou(confusion)),
        "pixel_accuracy": _none_if_nan(pixel_accuracy(confusion)),
        "iou": dict(zip(names, iou, strict=True)),
        "absent_classes": [name for name, value in zip(names, iou, strict=True) if value is None],
        "confusion": confusion.tolist(),
    }
    log.info(
        "evaluate %s: mIoU %s, pixel accuracy %s", stage, *(_text(facts[key]) for key in ("miou", "pixel_accuracy"))
    )
    return facts


def confusion_of(student: Student, images: WholeImages, workers: int, progress: Progress | None = None) -> Confusion:
    """int64 [K, K] over all images, one at a time, at their own size."""
    num_classes = images.data.num_classes
    total = torch.zeros((num_classes, num_classes), dtype=torch.int64, device=student.compute.device)
    for image, target in whole_images(images, workers):
        total += confusion_matrix(student.classes(image), target.to(total.device), num_classes)
        if progress is not None:
            progress.advance()
    return total.cpu().numpy()


def validation(settings: Settings, index: SampleIndex) -> Validate:
    """mIoU on the val images, for the learning curve of a stage."""
    images = WholeImages(index, index.of("val"), settings.data)
    return lambda student: _none_if_nan(mean_iou(confusion_of(student, images, settings.train.workers)))


def write_examples(student: Student, index: SampleIndex, settings: Settings) -> list[str]:
    """Write the predictions of `example_samples` into an empty evaluate/; returns their ids."""
    folder = settings.folder / "evaluate"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    samples = example_samples(index, settings.evaluate.num_examples)
    images = WholeImages(index, samples, settings.data)
    for sample, (image, _) in zip(samples, whole_images(images, workers=0), strict=True):
        Image.fromarray(student.classes(image)[0].cpu().numpy()).save(folder / f"{sample.id}.png")
    return [sample.id for sample in samples]


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"

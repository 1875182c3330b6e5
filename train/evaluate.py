"""Stage evaluate: measures the students on the val images at their own size, and keeps predictions for the report."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets import Sample, SampleIndex, example_samples, num_groups, units_of
from pipeline.digests import digests_of
from pipeline.errors import TrainingError
from pipeline.files import replacing, replacing_folder
from pipeline.progress import Progress
from pipeline.receipt import TrainingReceipt
from pipeline.run import Run, TrainingStage
from pipeline.settings import Settings
from train.data import WholeImages, whole_images
from train.machine.device import compute_of
from train.machine.processes import world
from train.measure.inference import predicted_classes
from train.measure.metrics import iou_per_class, mean_iou, miou_interval, pixel_accuracy
from train.measure.tally import Tally, tally_of
from train.plan import plan_fingerprint
from train.student import Student, Validate, load_student
from train.students import class_names_of

log = logging.getLogger(__name__)

STAGES: tuple[TrainingStage, ...] = ("stage1", "stage2")
MAX_NAMES = 5  # class names that a message lists


def evaluate(settings: Settings) -> dict[str, Any]:
    """Measure the last and the best student of every finished training stage.

    Reads samples.json and the students. Writes evaluate/ID.png, the predictions of the final student for a few
    unlabeled images (grey PNG, class index, the image's own size). Writes evaluate/areas.npz, with which students can
    be compared image by image: for each stage int64 [N, 3, K], `class_areas` of each val image by its last student, in
    the order of samples.json.

    returns: facts for the receipt
    raises:  DatasetError without samples; TrainingError without a finished stage, or for a student with other classes
    """
    start = time.monotonic()
    run = Run(settings)
    index = run.samples("evaluate")
    receipts = finished_stages(run, index)
    students = {stage: student_of(run, stage, run.folder.student(stage)) for stage in receipts}
    val = WholeImages(index, index.of("val"), settings.data)
    measured = {stage: measure(stage, student, receipts[stage], val, settings) for stage, student in students.items()}
    if world().is_main:
        run.begin("evaluate")
    examples = write_examples(list(students.values())[-1], index, settings)
    if world().is_main:
        areas = {stage: one.areas for stage, one in measured.items()}
        with replacing(run.folder.areas) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **areas)  # type: ignore[arg-type]
    written = [run.folder.areas, *(run.folder.prediction(sample_id) for sample_id in examples)]
    return {
        "num_val": len(val),
        "students": {stage: one.scores for stage, one in measured.items()},
        "weights": {stage: run.student_digest(stage) for stage in measured},
        "final": list(students)[-1],
        "examples": examples,
        "files": digests_of(run.folder.evaluation, written) if world().is_main else {},
        "seconds": round(time.monotonic() - start, 1),
    }


def finished_stages(run: Run, index: SampleIndex) -> dict[TrainingStage, TrainingReceipt]:
    """The receipts of the training stages that have finished.

    raises: TrainingError if none has, if Stage II was trained from another Stage I, or if the images and masks, those
            of val included, are not those of the training; StoreError for a stage that was run with other settings
    """
    facts = {stage: run.receipt(stage) for stage in STAGES if run.has_receipt(stage)}
    if not facts:
        raise TrainingError(f"no student in {run.folder.path}; run {run.command('stage1')}")
    if "stage1" in facts and run.receipt("stage1")["plan_fingerprint"] != plan_fingerprint(run.settings, index):
        raise TrainingError(
            f"the students in {run.folder.path} were trained, or the best of them chosen on val, with other images or "
            f"masks than {run.folder.samples} lists now; run {run.command('stage1', rerun='stage1')}"
        )
    if len(facts) == 2 and run.receipt("stage2")["stage1_fingerprint"] != facts["stage1"]["fingerprint"]:
        again = run.command("stage2", rerun="stage2")
        raise TrainingError(f"stage2 in {run.folder.path} was trained from another stage1; run {again}")
    return facts


def student_of(run: Run, stage: TrainingStage, folder: Path) -> Student:
    """The student in a folder of a stage.

    raises: StoreError if it is not as the stage wrote it; TrainingError for another number of classes than the run
    """
    settings = run.settings
    run.check_file(stage, folder)
    student = load_student(folder, compute_of(settings.train))
    names, expected = class_names_of(folder), settings.data.class_names
    if len(names) != len(expected):
        raise TrainingError(
            f"the student in {folder} has {_listed(names)}, but data.classes of the run has {_listed(expected)}; "
            "evaluate it with the run file that it was trained with, or train it on these classes: run "
            f"{run.command('stage1', rerun='stage1')}"
        )
    return student


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
    return f"{len(names)} classes ({shown})"


class Measured(NamedTuple):
    """Measurements of the students of a stage. areas: of the last one, as `Tally.areas`"""

    scores: dict[str, Any]
    areas: npt.NDArray[np.int64]


def measure(
    stage: TrainingStage, student: Student, receipt: TrainingReceipt, images: WholeImages, settings: Settings
) -> Measured:
    """Scores of the last student of a stage and, under `best`, of the student with the best mIoU on its learning curve.

    receipt: of the stage. Its `best` is None if the stage has no learning curve. The best student may be the last one;
             it is not measured again then.
    """
    tally = _tally(stage, student, images, settings)
    last = scores_of(tally, images.samples, settings)
    log.info("evaluate %s: %s", stage, _text(last))
    best_point, last_point = receipt["best"], receipt["last"]
    if best_point is None or last_point is None:
        return Measured(last | {"best": None}, tally.areas)
    epoch, scores = best_point["epoch"], last
    if epoch != last_point["epoch"]:
        run = Run(settings)
        student = student_of(run, stage, run.folder.best_student(stage))
        scores = scores_of(_tally(f"{stage}, best", student, images, settings), images.samples, settings)
    log.info("evaluate %s, best (epoch %d; the last is %d): %s", stage, epoch, last_point["epoch"], _text(scores))
    best = {"epoch": epoch, **{name: scores[name] for name in scores if name != "confusion"}}
    return Measured(last | {"best": best}, tally.areas)


def _tally(what: str, student: Student, images: WholeImages, settings: Settings) -> Tally:
    progress = Progress(log, f"evaluate {what}", len(images), "images") if world().is_main else None
    return tally_of(student, images, settings.evaluate, settings.evaluate.workers, progress)


def scores_of(tally: Tally, val: Sequence[Sample], settings: Settings) -> dict[str, Any]:
    """The scores of a student for the receipt; None for a score that is a mean over nothing.

    val: the images of the tally
    """
    own, names = settings.evaluate, settings.data.class_names
    iou = by_class(names, iou_per_class(tally.confusion))
    interval = miou_interval(tally.areas, own.absent, settings.seed, units_of(val))
    return {
        "miou": _none_if_nan(mean_iou(tally.confusion, own.absent)),
        "miou_interval": None if interval is None else {"low": interval[0], "high": interval[1]},
        "num_groups": num_groups(val),
        "pixel_accuracy": _none_if_nan(pixel_accuracy(tally.confusion)),
        "iou": iou,
        "absent_classes": [name for name, value in iou.items() if value is None],
        "boundary": None if own.boundary_tolerance is None else boundary_facts(tally.boundary, names),
        "confusion": tally.confusion.tolist(),
    }


def boundary_facts(sums: npt.NDArray[np.float64], names: Sequence[str]) -> dict[str, Any]:
    """Boundary scores of each class, as means over the images in which it has a boundary; and the mean F.

    The mean F is over the classes that have a boundary in some image.

    sums: float64 [4, K] as `Tally.boundary`
    """
    *scores, num_images = sums
    means = np.divide(scores, num_images, out=np.full((3, len(names)), np.nan), where=num_images > 0)
    has_boundary = num_images > 0
    return {
        "mean_f": float(means[2, has_boundary].mean()) if has_boundary.any() else None,
        "f": by_class(names, means[2]),
        "precision": by_class(names, means[0]),
        "recall": by_class(names, means[1]),
        "num_images": dict(zip(names, num_images.astype(int).tolist(), strict=True)),
    }


def by_class(names: Sequence[str], values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """The value of each class, by its name; None for NaN."""
    return {name: _none_if_nan(value) for name, value in zip(names, values.tolist(), strict=True)}


def validation(settings: Settings, index: SampleIndex) -> Validate:
    """A function that measures mIoU on the val images as `evaluate` does, for the learning curve of a stage."""
    images = WholeImages(index, index.of("val"), settings.data)
    own = settings.evaluate.model_copy(update={"boundary_tolerance": None})  # the curve has no boundary scores

    def validate(student: Student) -> float | None:
        return _none_if_nan(mean_iou(tally_of(student, images, own, settings.train.workers).confusion, own.absent))

    return validate


def write_examples(student: Student, index: SampleIndex, settings: Settings) -> list[str]:
    """Replace evaluate/ by a folder with the predictions for `example_samples`; returns their ids."""
    samples = example_samples(index, settings.evaluate.num_examples)
    if world().is_main:
        images = whole_images(WholeImages(index, samples, settings.data), workers=0)
        with replacing_folder(Run(settings).folder.evaluation) as part:
            part.mkdir(parents=True)
            for sample, (image, _) in zip(samples, images, strict=True):
                classes = predicted_classes(student, image, settings.evaluate)[0]
                Image.fromarray(classes.cpu().numpy()).save(part / f"{sample.id}.png")
    return [sample.id for sample in samples]


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(scores: Mapping[str, Any]) -> str:
    """The scores for a log line."""
    interval, boundary = scores["miou_interval"], scores["boundary"]
    phrases = [f"mIoU {_number(scores['miou'])}"]
    if interval is not None:
        groups = scores.get("num_groups")
        over = "" if groups is None else f" over {groups} groups"
        phrases.append(f"95 % interval{over} {interval['low']:.4f} to {interval['high']:.4f}")
    phrases.append(f"pixel accuracy {_number(scores['pixel_accuracy'])}")
    if boundary is not None:
        phrases.append(f"boundary F {_number(boundary['mean_f'])}")
    return ", ".join(phrases)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"

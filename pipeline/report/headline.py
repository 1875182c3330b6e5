"""The result of a run in one sentence, and the numbers that it compares, each kind of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.calibration.verdict import points
from pipeline.datasets import in_groups
from pipeline.report.estimates import Estimates
from pipeline.report.figures import STAGE_NAMES

Facts = Mapping[str, Any]


class LabelNumbers(NamedTuple):
    """Precision of the labels and of the annotator on the same images: estimates with a value in [0, 1], or None.

    images:    in words
    raw:       of the annotator's argmax at every pixel
    same_keep: of its most confident pixels, as many as have a label
    labels:    of the labels; None if they are the argmax
    keep_rate: fraction of the pixels that are labeled, in [0, 1]
    """

    images: str
    raw: Facts | None
    same_keep: Facts | None
    labels: Facts | None
    keep_rate: float | None


class StudentNumber(NamedTuple):
    """mIoU of a student in [0, 1] with its interval, None if it was not measured. note: in words, may be empty"""

    name: str
    miou: float | None
    interval: Facts | None
    note: str


class Headline(NamedTuple):
    """The sentence, without a full stop, and its numbers. labels: None if their precision was not measured"""

    sentence: str
    labels: LabelNumbers | None
    students: list[StudentNumber]


def headline(receipts: Mapping[str, Facts], held_out: Estimates | None, audit: Facts | None) -> Headline:
    """The result of a run.

    receipts: by stage; those of training may be missing, and those of labels in a run without an annotator
    held_out: estimates on labeled images
    audit:    `audit.summarise`
    """
    labels = receipts.get("pseudolabel")
    numbers = None if labels is None else label_numbers(labels["rule"] == "raw", held_out, audit)
    clauses = [] if labels is None else [_label_clause(numbers)]
    clauses += _student_clause(receipts, is_first=not clauses)
    return Headline("; ".join(clauses), numbers, student_numbers(receipts))


def label_numbers(is_raw: bool, held_out: Estimates | None, audit: Facts | None) -> LabelNumbers | None:
    """Numbers of held-out labeled images; without them, of unlabeled images that have a mask; else None.

    is_raw: whether the labels are the annotator's argmax
    """
    if held_out is not None and held_out.raw.precision is not None:
        images = in_groups(held_out.num_images, held_out.num_groups, "held-out labeled")
        keep_rate = held_out.used.keep_rate
        if is_raw:
            return LabelNumbers(images, held_out.raw.precision, None, None, 1.0)
        used = held_out.used
        return LabelNumbers(
            images, held_out.raw.precision, used.same_keep, used.precision, keep_rate and keep_rate["value"]
        )
    if audit is None or audit["raw"]["pixel_accuracy"] is None:
        return None
    images = f"{audit['num_images']} unlabeled images that have a mask"
    raw, kept = {"value": audit["raw"]["pixel_accuracy"]}, audit["kept"]
    labels = None if is_raw or kept["precision"] is None else {"value": kept["precision"]}
    return LabelNumbers(images, raw, None, labels, kept["keep_rate"])


def _label_clause(numbers: LabelNumbers | None) -> str:
    if numbers is None or numbers.raw is None:
        return "How many of the labels are right was not measured"
    if numbers.keep_rate == 0:
        return f"No pixel is labeled; the raw annotator is {_percent(numbers.raw)} right on {numbers.images}"
    if numbers.labels is None:
        return f"The labels are those of the raw annotator, {_percent(numbers.raw)} right on {numbers.images}"
    return (
        f"Calibrated labels are {_percent(numbers.labels)} right on {numbers.images}, the raw annotator "
        f"{_percent(numbers.raw)}"
    )


def _student_clause(receipts: Mapping[str, Facts], is_first: bool) -> list[str]:
    """One clause about the final student, or none before it is evaluated."""
    evaluated = receipts.get("evaluate")
    miou = None if evaluated is None else evaluated["students"][final_stage(receipts)]["miou"]
    if miou is None:
        return ["The student has not been evaluated"] if is_first else []
    clause = f"{'The' if is_first else 'the'} student reaches {points(miou)} mIoU"
    alone = receipts.get("baseline", {}).get("miou")
    return [clause if alone is None else f"{clause}, {points(alone)} from labels alone"]


def final_stage(receipts: Mapping[str, Facts]) -> str:
    """The last training stage whose student was evaluated."""
    return str(list(receipts["evaluate"]["students"])[-1])


def student_numbers(receipts: Mapping[str, Facts]) -> list[StudentNumber]:
    """mIoU of the students on the val images: that of labels alone, if there is one, and those of both stages."""
    students = receipts.get("evaluate", {}).get("students", {})
    numbers = []
    if "baseline" in receipts:
        alone = receipts["baseline"]
        numbers.append(StudentNumber("Labels alone", alone["miou"], alone["miou_interval"], "as many steps"))
    for stage, name in STAGE_NAMES.items():
        scores = students.get(stage, {"miou": None, "miou_interval": None})
        note = _stage_note(receipts.get(stage), stage in students)
        numbers.append(StudentNumber(name, scores["miou"], scores["miou_interval"], note))
    return numbers


def _stage_note(receipt: Facts | None, is_evaluated: bool) -> str:
    if receipt is None:
        return "not trained yet"
    if not receipt["num_steps"]:
        return "switched off, so the same student"
    return "" if is_evaluated else "trained, not evaluated"


def _percent(estimate: Facts) -> str:
    return f"{100 * estimate['value']:.1f}\u00a0%"

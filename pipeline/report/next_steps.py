"""What to do next with a run, as commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.report.estimates import Estimates
from pipeline.run import Run

Facts = Mapping[str, Any]

NUM_TO_CORRECT = 50


class Step(NamedTuple):
    """A command, and what it is for."""

    purpose: str
    command: str


def next_steps(run: Run, receipts: Mapping[str, Facts], held_out: Estimates | None, worst: str | None) -> list[Step]:
    """The steps that make sense for a run, the most important one first.

    receipts: as shown in the report
    held_out: estimates on labeled images
    worst:    id of the labeled image in which the most pixels are labeled wrong
    """
    return [*_of_training(run, receipts, held_out), *_of_labels(run, receipts, worst), *_of_student(run, receipts)]


def _of_training(run: Run, receipts: Mapping[str, Facts], held_out: Estimates | None) -> Iterator[Step]:
    labels, is_trained = receipts.get("pseudolabel"), "evaluate" in receipts
    if labels is not None and labels.get("labels_alone_are_better"):
        yield Step(
            "Train on the labeled images alone, which the probe found better", run.command("all", preset="label-only")
        )
    elif labels is not None and not is_trained and "probe" not in receipts:
        yield Step("Find out whether these labels help a student, in minutes", run.tool("probe"))
    if held_out is not None and held_out.is_worse_than_raw:
        yield Step("Use the annotator's own labels, which are better here", run.command("all", rule="raw"))
    if is_trained and "baseline" not in receipts and run.settings.needs_unlabeled:
        yield Step("Find out what the pseudo-labels are worth to the student", run.command("all", baseline=True))
    if not is_trained:
        yield Step("Train and evaluate the student", run.command("all"))


def _of_labels(run: Run, receipts: Mapping[str, Facts], worst: str | None) -> Iterator[Step]:
    if "pseudolabel" not in receipts:
        return
    proposed = run.tool("next", "--count", str(NUM_TO_CORRECT), "--to", "cvat")
    yield Step("Correct the labels that lack most, by hand", proposed)
    yield Step("Read the corrected masks", f"{run.tool('import-masks')} task.zip")
    yield Step("Compare goals: more labels, or more precise ones", run.tool("alpha"))
    if worst is not None:
        yield Step(
            "See why a pixel of the worst labeled image has its label",
            run.tool("explain", "--id", worst, "--xy", "X,Y"),
        )


def _of_student(run: Run, receipts: Mapping[str, Facts]) -> Iterator[Step]:
    if "evaluate" not in receipts:
        return
    stage = list(receipts["evaluate"]["students"])[-1]
    student = shlex.quote(str(run.folder.student(stage)))
    yield Step("Apply the student to other images", f"conformalsam predict FOLDER OUT --student {student}")

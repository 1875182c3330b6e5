"""Results of the finished runs of an experiment, row by row."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import units_of
from pipeline.digests import sha256_of
from pipeline.errors import StoreError
from pipeline.experiment.pairs import Areas, Difference, difference
from pipeline.experiment.plan import Cell, Experiment
from pipeline.experiment.tables import table_of
from pipeline.folder import Folder
from pipeline.receipt import read_receipt
from pipeline.run import Run


class Labels(NamedTuple):
    """The pseudo-labels of a row."""

    made_with: str
    """Rule, variant and alpha, in words."""
    quality: Mapping[str, float | None] | None
    """precision, keep_rate, miou and miou_all in [0, 1] (`quality.label_quality`); None without masks."""
    sets: Mapping[str, float | None] | None
    """right, pixels and foreground in [0, 1] (`quality.set_quality`); None if sets do not teach, or without masks."""
    receipts: Mapping[str, Any]


class Student(NamedTuple):
    """One seed's student of a row; scores are in [0, 1]."""

    seed: int
    steps: int
    """Number of optimiser steps up to this student, including Stage I."""
    last: float | None
    best: float | None
    accuracy: float | None
    areas: Areas
    receipts: Mapping[str, Any]


class Result(NamedTuple):
    """A row under a protocol: its students, or the reason why it has none.

    left_out: the reason
    against:  row of the table's references -> mIoU of the last students minus that of the reference
    """

    cell: Cell
    students: Sequence[Student]
    labels: Labels | None
    left_out: str | None = None
    against: Mapping[str, Difference] = {}


def results_of(experiment: Experiment) -> list[Result]:
    """Results of all cells; StoreError for a run that has not finished."""
    results = [_result(experiment, cell) for cell in experiment.cells]
    return [result._replace(against=_against(experiment, result, results)) for result in results]


def _result(experiment: Experiment, cell: Cell) -> Result:
    students, labels = [], _labels(experiment, cell)
    for seed in range(experiment.request.seeds):
        folder = experiment.run_folder(cell.run.name, seed)
        facts = read_receipt(experiment.run_receipt(cell.run.name, seed), "experiment-run", experiment.command)
        if "left_out" in facts:
            return Result(cell, [], labels, facts["left_out"])
        students.append(_student(cell, folder, facts, experiment.command))
    return Result(cell, students, labels)


def _student(cell: Cell, folder: Path, facts: Mapping[str, Any], again: str) -> Student:
    place = Folder(folder)
    evaluated = read_receipt(place.receipt("evaluate"), "evaluate", again)
    scores = evaluated["students"][cell.stage]
    if evaluated["files"].get(place.areas.name) != sha256_of(place.areas):
        undo = f"rm {shlex.quote(str(place.receipt('run')))}"
        raise StoreError(f"{place.areas} is not as evaluate wrote it; run {undo} && {again}")
    with np.load(place.areas) as areas:
        own: Areas = areas[cell.stage]
    return Student(
        seed=facts["seed"],
        steps=sum(facts["steps"][:1] if cell.stage == "stage1" else facts["steps"]),
        last=scores["miou"],
        best=scores["miou"] if scores["best"] is None else scores["best"]["miou"],
        accuracy=scores["pixel_accuracy"],
        areas=own,
        receipts=facts["receipts"],
    )


def _labels(experiment: Experiment, cell: Cell) -> Labels | None:
    """None for rows without pseudo-labels."""
    recipe = cell.run.recipe
    name = experiment.labels_name(recipe)
    if name is None:
        return None
    facts = read_receipt(experiment.labels_receipt(name), "experiment-labels", experiment.command)
    is_raw = experiment.settings_of(recipe).stage1.labels == "raw"
    quality = facts["quality"] and facts["quality"]["raw" if is_raw else "calibrated"]
    used = facts["made_with"]
    made_with = "argmax" if is_raw or used["rule"] == "raw" else f"{used['rule']}, {used['variant']} {used['alpha']:g}"
    if calib.find_variant(used["variant"]).bounds == "nothing" and not is_raw:
        made_with = f"{used['rule']}, from {experiment.settings_of(recipe).calibrate.fixed_threshold:g}"
    return Labels(made_with, quality, facts["quality"] and facts["quality"].get("sets"), facts["receipts"])


def _val_units(experiment: Experiment) -> npt.NDArray[np.int64] | None:
    """The unit of each val image; None without `data.groups`."""
    if experiment.base.data.groups is None:
        return None
    return units_of(Run(experiment.base).samples().of("val"))


def _against(experiment: Experiment, result: Result, results: Sequence[Result]) -> dict[str, Difference]:
    """Differences to the references under the same protocol."""
    absent, units = experiment.base.evaluate.absent, _val_units(experiment)
    references = table_of(experiment.request.table).references
    gaps: dict[str, Difference] = {}
    for other in results:
        key = other.cell.row.key
        is_other = key in references and other.cell.protocol == result.cell.protocol and key != result.cell.row.key
        if is_other and result.students and other.students:
            gap = difference(
                [s.areas for s in result.students], [s.areas for s in other.students], absent, unit_of_image=units
            )
            gaps |= {} if gap is None else {key: gap}
    return gaps

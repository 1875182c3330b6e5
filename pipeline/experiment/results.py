"""What the finished runs of an experiment measured, row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.experiment.plan import Cell, Experiment
from pipeline.receipt import read_receipt

RECEIPT = "experiment"


class Student(NamedTuple):
    """One seed's student of a row; shares in [0, 1]."""

    seed: int
    steps: int
    """Optimiser steps up to this student, those of Stage I included."""
    last: float | None
    best: float | None
    accuracy: float | None
    folder: Path
    receipts: Mapping[str, Any]


class Result(NamedTuple):
    """A row under a protocol: its students, or why it has none."""

    cell: Cell
    students: Sequence[Student]
    left_out: str | None


def results_of(experiment: Experiment) -> list[Result]:
    """Results of all cells; StoreError for a run that has not finished."""
    return [_result(experiment, cell) for cell in experiment.cells]


def _result(experiment: Experiment, cell: Cell) -> Result:
    students = []
    for seed in range(experiment.request.seeds):
        folder = experiment.run_folder(cell.run.name, seed)
        facts = read_receipt(folder / "run.json", RECEIPT)
        if "left_out" in facts:
            return Result(cell, [], facts["left_out"])
        students.append(_student(cell, folder, facts))
    return Result(cell, students, None)


def _student(cell: Cell, folder: Path, facts: Mapping[str, Any]) -> Student:
    scores = json.loads((folder / "evaluate.json").read_text(encoding="utf-8"))["students"][cell.stage]
    steps = facts["steps"][:1] if cell.stage == "stage1" else facts["steps"]
    best = scores["miou"] if scores["best"] is None else scores["best"]["miou"]
    return Student(
        seed=facts["seed"],
        steps=sum(steps),
        last=scores["miou"],
        best=best,
        accuracy=scores["pixel_accuracy"],
        folder=folder,
        receipts=facts["receipts"],
    )

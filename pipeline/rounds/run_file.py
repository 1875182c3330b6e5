"""Writes the run file of the next round: the same run, annotated by its students."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError, UserError
from pipeline.files import write_text
from pipeline.names import checked_name
from pipeline.progress import clock
from pipeline.rounds.base import base_run
from pipeline.rounds.folds import Fold, folds_of
from pipeline.run_file import CONFIG_FOLDER, beside, find_run_file, full_names, load_settings, put_setting
from pipeline.run_file_text import render
from pipeline.settings import Settings, StudentSettings
from pipeline.workflow import run_word, snakemake_command

ROUND = re.compile(r"(.*)_round(\d+)")


class Choices(NamedTuple):
    """The options of a call of `next-round`.

    run:       the run of this round: path of its run file, or its name in config/
    overrides: full or short name -> value, those that the run was started with
    """

    run: str
    overrides: Mapping[str, Any]
    folds: int
    name: str | None = None


def write_next_round(choices: Choices) -> list[str]:
    """Write NAME.yaml beside the run file of a finished run. After an error no file is left.

    returns: lines of text: what was written, what it trains, and the command to run next
    raises:  ConfigError for a name that is taken, or a recipe without pseudo-labels; AnnotatorError and StoreError for
             a run that has not finished
    """
    of_run = find_run_file(choices.run)
    last = load_settings(choices.run, choices.overrides)
    name = next_name(last.name) if choices.name is None else _checked(choices.name)
    path = beside(of_run, name)
    if path.exists():
        raise ConfigError(
            f"{path} exists and is not overwritten; use another --name, or remove it: rm {shlex.quote(str(path))}"
        )
    folds = folds_of(base_run(last, StudentSettings(run=last.name, folds=choices.folds)), choices.folds)
    write_text(path, render(_opening(last.name), _tree(choices, of_run, last, name), _comments(folds)))
    try:
        settings = load_settings(path)
        if not settings.needs_annotator:
            raise ConfigError(
                f"{last.name} trains without pseudo-labels (stage1.labels: none), so its next round would not use its "
                "students; choose a recipe with labels: add --set preset=paper"
            )
    except UserError:
        path.unlink()
        raise
    run = name if path.parent == CONFIG_FOLDER else str(path)
    return [f"wrote     {path}", *_cost(folds), f"next      {snakemake_command('all', [run_word(run)])}"]


def next_name(name: str) -> str:
    """The name of the run of the next round: mine -> mine_round2 -> mine_round3."""
    found = ROUND.fullmatch(name)
    return f"{name}_round2" if found is None else f"{found[1]}_round{int(found[2]) + 1}"


def _checked(name: str) -> str:
    try:
        return checked_name(name)
    except ValueError as error:
        raise ConfigError(str(error).replace("set name: ", "use --name ")) from None


def _tree(choices: Choices, of_run: Path, last: Settings, name: str) -> dict[str, Any]:
    tree: dict[str, Any] = {"extends": of_run.name, "name": name}
    for full, value in full_names(choices.overrides).items():
        if full != "name":
            put_setting(tree, full, value)
    put_setting(tree, "annotate.annotator", "student")
    put_setting(tree, "annotate.student", {"run": last.name, "folds": choices.folds})
    if last.annotate.views is not None:  # they were chosen for the last annotator; students have those of `evaluate`
        put_setting(tree, "annotate.views", None)
    return tree


def _opening(last: str) -> list[str]:
    return [f"The next round of self-training: the students of run {last} annotate, and are calibrated again."]


def _comments(folds: list[Fold]) -> dict[str, str]:
    return {"annotate.student.folds": f"run {folds[0].base.settings.name} is trained this many more times"}


def _cost(folds: list[Fold]) -> list[str]:
    """Lines about what is trained, and how long that took for the last round."""
    base = folds[0].base
    num_labeled = len(base.samples().of("labeled"))
    fewest = num_labeled - max(len(fold.labeled()) for fold in folds)
    seconds = sum(base.recorded(stage)["seconds"] for stage in folds[0].stages())  # type: ignore[typeddict-item]
    return [
        f"trains    run {base.settings.name} {len(folds)} times more, each time on {fewest} or more of its "
        f"{num_labeled} masks",
        f"time      it took {clock(seconds)} once; {len(folds)} folds and the next round take about "
        f"{clock((len(folds) + 1) * seconds)}",
    ]

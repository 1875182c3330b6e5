"""What the Snakefile needs of an experiment: its settings and its marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.dependencies import is_stale
from pipeline.digests import sha256_of
from pipeline.errors import ConfigError
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Request, split_request
from pipeline.folder import Folder
from pipeline.marks import mark_of, update_mark
from pipeline.overrides import split_workflow_config
from pipeline.receipt import read_receipt
from pipeline.workflow import run_word, snakemake_command


def experiment_of(config: Mapping[str, Any], command_line: Sequence[str], is_main: bool = True) -> Experiment:
    """The experiment in Snakemake's `--config`, by default of table 5. Its `base` is the run of all other rules.

    command_line: Snakemake's words
    is_main:      whether this is not a process that Snakemake itself started
    raises:       ConfigError if `table=` is given without the target experiment, or if the experiment is impossible
    """
    request, rest = split_request(config)
    run, overrides = split_workflow_config(rest, command_line)
    if request is not None and is_main and not any(map(_is_of_experiment, command_line)):
        command = snakemake_command("experiment", [run_word(run), *request.as_workflow_config()])
        raise ConfigError(f"table={request.table} needs the target experiment; run {command} ...")
    experiment = Experiment(run, overrides, request or Request("5"))
    if request is not None:
        _ = experiment.cells  # an impossible row raises its error before any job runs
    return experiment


def _is_of_experiment(word: str) -> bool:
    """Whether a word of the command line is a target of the experiment's rules."""
    return word == "experiment" or word.startswith("experiment_") or "/experiments/" in word


def update_marks(experiment: Experiment, command_line: Sequence[str]) -> None:
    """Create or remove the marks of an experiment that the command line asks for; OSError.

    Labels, runs and the table have a mark as stages do. The marks of the base have been updated.
    """
    if not any(map(_is_of_experiment, command_line)):
        return
    for name in experiment.labels:
        receipt, stage = experiment.labels_receipt(name), "experiment-labels"
        update_mark(receipt, stage, experiment.labels_inputs(), partial(is_current, receipt, stage, {}))
    for (name, run), seed in product(experiment.runs.items(), range(experiment.request.seeds)):
        receipt, stage = experiment.run_receipt(name, seed), "experiment-run"
        of_settings = partial(is_current, receipt, stage, experiment.tracked(run))
        update_mark(receipt, stage, experiment.run_inputs(run), of_settings)
    table = experiment.table_file("json")
    update_mark(table, "experiment-table", experiment.table_inputs(), partial(_is_written, experiment))


def _is_written(experiment: Experiment) -> bool:
    """Whether all files of the table exist, and have its rows and seeds."""
    files = {ending: experiment.table_file(ending) for ending in ("md", "svg", "json")}
    has_files = all(map(Path.is_file, files.values()))
    return has_files and not is_stale(files["json"], "experiment-table", experiment.table_facts())


def is_current(receipt: Path, stage: str, tracked: Mapping[str, Any]) -> bool:
    """Whether labels or a run are finished with these settings, and none of their stages was started again since."""
    if not receipt.is_file() or is_stale(receipt, stage, tracked):
        return False
    listed = read_receipt(receipt, stage).get("receipts", {})  # none of a run that is left out
    digests = {Folder(receipt.parent).receipt(name): one["sha256"] for name, one in listed.items()}
    own = {path: digest for path, digest in digests.items() if not path.is_symlink()}
    return all(path.is_file() and sha256_of(path) == digest for path, digest in own.items())


def run_marks(experiment: Experiment) -> list[Path]:
    """Marks of all runs with all seeds."""
    seeds = range(experiment.request.seeds)
    return [mark_of(experiment.run_receipt(name, seed)) for seed in seeds for name in experiment.runs]


def labels_mark(experiment: Experiment, run: str) -> list[Path]:
    """Mark of the labels that a run is trained on; [] if there are none."""
    name = experiment.labels_name(experiment.run_named(run).recipe)
    return [] if name is None else [mark_of(experiment.labels_receipt(name))]


def table_mark(experiment: Experiment) -> Path:
    """Mark of the table."""
    return mark_of(experiment.table_file("json"))

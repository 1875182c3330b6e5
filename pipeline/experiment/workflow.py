"""What the Snakefile needs of an experiment: its receipts, inputs and file names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Request, split_request
from pipeline.run import is_stale, newer_note
from pipeline.run_file import split_workflow_config


def experiment_of(config: Mapping[str, Any], command_line: Sequence[str] | None) -> Experiment:
    """The experiment in Snakemake's `--config`, by default of table 5. Its `base` is the run of all other rules.

    command_line: Snakemake's words; None in a process that Snakemake itself started
    raises:       ConfigError if `table=` is given without the target experiment, or if the experiment is impossible
    """
    request, rest = split_request(config)
    if request is not None and command_line is not None and not any(map(_is_of_experiment, command_line)):
        raise ConfigError(
            f"table={request.table} needs the target experiment; run snakemake --cores 8 experiment --config "
            f"table={request.table} ..."
        )
    run, overrides = split_workflow_config(rest)
    experiment = Experiment(run, overrides, request or Request("5"))
    if request is not None:
        _ = experiment.cells  # an impossible row raises its error before any job runs
    return experiment


def _is_of_experiment(word: str) -> bool:
    """Whether a word of the command line is a target of the experiment's rules."""
    return word == "experiment" or word.startswith("experiment_") or "/experiments/" in word


def run_receipts(experiment: Experiment) -> list[str]:
    """Paths of the receipts of all runs with all seeds."""
    seeds = range(experiment.request.seeds)
    return [str(experiment.run_receipt(name, seed)) for seed in seeds for name in experiment.runs]


def labels_receipt(experiment: Experiment, run: str) -> list[str]:
    """Path of the receipt of the labels that a run is trained on; [] if there are none."""
    name = experiment.labels_name(experiment.run_named(run).recipe)
    return [] if name is None else [str(experiment.labels_receipt(name))]


def stale_run(experiment: Experiment, name: str, seed: str) -> list[str]:
    """Input that makes Snakemake repeat a run whose receipt was written with other settings; [] otherwise."""
    receipt, tracked = experiment.run_receipt(name, int(seed)), experiment.tracked(experiment.run_named(name))
    return [str(newer_note(receipt))] if is_stale(receipt, "experiment-run", tracked) else []


def stale_labels(experiment: Experiment, name: str) -> list[str]:
    """Input that makes Snakemake repeat the labels whose receipt is damaged; [] otherwise."""
    receipt = experiment.labels_receipt(name)
    return [str(newer_note(receipt))] if is_stale(receipt, "experiment-labels", {}) else []


def stale_table(experiment: Experiment) -> list[str]:
    """Input that makes Snakemake write a table again that has other rows or seeds; [] otherwise."""
    path = experiment.folder / f"{experiment.request.table}.json"
    is_written = path.is_file() and experiment.cells
    is_other = is_written and is_stale(path, "experiment-table", experiment.table_facts())
    return [str(newer_note(path))] if is_other else []


def table_paths(experiment: Experiment) -> dict[str, str]:
    """File ending -> path of the table's file."""
    path: Path = experiment.folder / experiment.request.table
    return {ending: f"{path}.{ending}" for ending in ("md", "svg", "json")}

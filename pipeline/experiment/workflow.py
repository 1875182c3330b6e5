"""What the Snakefile needs of an experiment: its receipts, inputs, and command lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import split_workflow_config
from pipeline.errors import ConfigError
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Request, split_request


def experiment_of(config: Mapping[str, Any], targets: set[str]) -> Experiment:
    """The experiment of Snakemake's `--config`, whose base is the run that every rule is about; table 5 by default.

    targets: what Snakemake is to make, {} for the first rule
    raises:  ConfigError for a table that no target makes
    """
    request, rest = split_request(config)
    if request is not None and not any("experiment" in str(target) for target in targets):
        raise ConfigError(
            f"table={request.table} is for the target experiment; write snakemake --cores 8 experiment --config "
            f"table={request.table} ..."
        )
    run, overrides = split_workflow_config(rest)
    return Experiment(run, overrides, request or Request("5"))


def run_receipts(experiment: Experiment) -> list[str]:
    """Receipts of all runs with all seeds."""
    seeds = range(experiment.request.seeds)
    return [str(experiment.run_folder(name, seed) / "run.json") for seed in seeds for name in experiment.runs]


def labels_receipt(experiment: Experiment, run: str) -> list[str]:
    """Receipt of the labels that a run learns from, if it does."""
    name = experiment.labels_name(experiment.run_named(run).recipe)
    return [] if name is None else [str(experiment.labels_folder(name) / "labels.json")]


def table_paths(experiment: Experiment) -> dict[str, str]:
    """Ending -> file of the table."""
    path: Path = experiment.folder / experiment.request.table
    return {ending: f"{path}.{ending}" for ending in ("md", "json")}

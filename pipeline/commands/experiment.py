"""The commands that `snakemake experiment` runs: one for a set of labels, one for a run, one for the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline.cli import SET_OPTION
from pipeline.files import write_text
from pipeline.lock import only_writer
from pipeline.receipt import write_receipt


def experiment_command(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that define an experiment to a command; its function gets the experiment and its own options."""

    def command(
        run: str,
        overrides: Sequence[str],
        table: str,
        seeds: int,
        budget: float,
        arms: str | None,
        protocol: str,
        **options: Any,
    ) -> None:
        from pipeline.experiment.plan import Experiment
        from pipeline.experiment.request import parse_request
        from pipeline.overrides import parse_overrides
        from pipeline.run_file import full_names

        request = {"table": table, "seeds": seeds, "budget": budget, "arms": arms, "protocol": protocol}
        function(Experiment(run, full_names(parse_overrides(overrides)), parse_request(request)), **options)

    command.__doc__ = function.__doc__
    for option in (
        click.option(
            "--protocol", default="both", show_default=True, help="Unit of training length: steps, epochs or both."
        ),
        click.option("--arms", help="Keys of the table's rows, separated by commas. Default: all."),
        click.option("--budget", default=1.0, show_default=True, help="Factor of all training lengths."),
        click.option("--seeds", default=3, show_default=True, help="Number of seeds."),
        click.option("--table", required=True, help="Key of a table of docs/experiments.md, e.g. 5 or evidence."),
        SET_OPTION,
        click.argument("run", metavar="RUN"),
    ):
        command = option(command)
    return command


@click.command("experiment-labels", hidden=True)
@click.option("--labels", "name", required=True, help="Name of the labels.")
@experiment_command
def experiment_labels(experiment: Any, name: str) -> None:
    """Calibrate and label for all rows of an experiment that use these labels."""
    from pipeline.experiment.running import make_labels

    with only_writer(experiment.labels_folder(name), "labels"):
        facts = make_labels(experiment, name)
        write_receipt(experiment.labels_receipt(name), "experiment-labels", facts, {})


@click.command("experiment-run", hidden=True)
@click.option("--name", required=True, help="Name of the run.")
@click.option("--seed", required=True, type=int)
@experiment_command
def experiment_run(experiment: Any, name: str, seed: int) -> None:
    """Train and evaluate one run of an experiment."""
    from pipeline.experiment.running import train_run

    with only_writer(experiment.run_folder(name, seed), "run"):
        facts = train_run(experiment, name, seed)
        tracked = experiment.tracked(experiment.run_named(name))
        write_receipt(experiment.run_receipt(name, seed), "experiment-run", facts, tracked)


@click.command("experiment-table", hidden=True)
@experiment_command
def experiment_table(experiment: Any) -> None:
    """Write the table of an experiment whose runs have finished."""
    from pipeline.drawing.charts import standalone
    from pipeline.experiment.plot import chart
    from pipeline.experiment.results import results_of
    from pipeline.experiment.table import as_json, markdown

    results = results_of(experiment)
    text, drawing = markdown(experiment, results), chart(results)
    write_text(experiment.table_file("md"), text)
    write_text(experiment.table_file("svg"), "" if drawing is None else standalone(drawing))
    facts = as_json(experiment, results)
    write_receipt(experiment.table_file("json"), "experiment-table", facts, experiment.table_facts())
    click.echo(text)
    click.echo(f"wrote {experiment.table_file('md')}")

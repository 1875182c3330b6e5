"""Command `next-round`: writes the run file of the next round. Command `train-fold` is run by Snakemake."""

from __future__ import annotations

import click

from pipeline.cli import SET_OPTION, run_argument
from pipeline.lock import only_writer
from pipeline.settings import Settings


@click.command("next-round")
@click.argument("run", metavar="RUN")
@SET_OPTION
@click.option("--folds", type=click.IntRange(min=2), default=2, show_default=True,
              help="Number of times that RUN is trained again, each time without the masks of a part of the images, "
              "which its student then annotates.")  # fmt: skip
@click.option("--name", help="Name of the next round's run. Default: RUN_round2, or _round3 after _round2.")
def next_round(run: str, overrides: tuple[str, ...], folds: int, name: str | None) -> None:
    """Let the student of a finished run annotate the next round.

    Writes the run file of the next round beside that of RUN, and prints the command that runs it. Its annotator is the
    student that RUN has trained, calibrated again.

    RUN is a run file, or its name in config/. Give the --set that it was run with.
    """
    from pipeline.overrides import parse_overrides
    from pipeline.rounds.run_file import Choices, write_next_round

    for line in write_next_round(Choices(run, parse_overrides(overrides), folds, name)):
        click.echo(line)


@click.command("train-fold", hidden=True)
@click.option("--fold", "name", required=True, help="Name of the fold, e.g. 1_of_2.")
@run_argument
def train_fold(settings: Settings, name: str) -> None:
    """Train the student of a fold, which annotates the fold's images."""
    from pipeline.overrides import as_workflow_config
    from pipeline.rounds.training import train_fold as train
    from pipeline.rounds.workflow import fold_named

    fold = fold_named(settings, name)
    with only_writer(fold.folder, "fold"):
        train(fold, as_workflow_config(settings, {}))

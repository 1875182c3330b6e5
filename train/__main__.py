"""Command line of the trainer: one command a stage."""

from __future__ import annotations

import click

from pipeline.cli import CommandGroup, run_command
from pipeline.config import Settings
from pipeline.receipt import write_receipt


@click.group(cls=CommandGroup)
def main() -> None:
    """Train a student on labels and pseudo-labels, and measure it.

    These commands need what `python -m pipeline` wrote for the same run, e.g.: python -m train stage1 --run camvid
    """


@run_command(main)
def stage1(settings: Settings) -> None:
    """Labels + pseudo-labels -> student of Stage I, stage1/. Resumes at the last checkpoint."""
    from train.stage1 import stage1 as stage

    tracked = {"train": settings.train.tracked(), "stage1": settings.stage1.tracked()}
    write_receipt(settings.folder / "stage1.json", "stage1", stage(settings), tracked)


@run_command(main)
def stage2(settings: Settings) -> None:
    """The student of Stage I, now labelling the unlabelled images itself -> stage2/. Resumes at the last checkpoint."""
    from train.stage2 import stage2 as stage

    tracked = {"train": settings.train.tracked(), "stage2": settings.stage2.tracked()}
    write_receipt(settings.folder / "stage2.json", "stage2", stage(settings), tracked)


@run_command(main)
def evaluate(settings: Settings) -> None:
    """Students of all finished stages on the val images -> evaluate.json; a few predictions -> evaluate/."""
    from train.evaluate import evaluate as stage

    write_receipt(settings.folder / "evaluate.json", "evaluate", stage(settings), settings.evaluate.tracked())


if __name__ == "__main__":
    main()

"""Command line: one command per stage, in the order of the data flow, then the tools."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working folder: a file train.py or scipy.py in it would be imported instead of the package

from importlib.metadata import entry_points
from platform import platform, python_version

import click

from pipeline.cli import CommandGroup, explained_disk, run_argument, run_command, run_stage
from pipeline.commands import TOOLS
from pipeline.receipt import package_versions
from pipeline.settings import Settings


def _show_environment(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Print what a report of a bug needs, and exit."""
    if is_asked:
        versions = (f"{package} {number}" for package, number in package_versions().items())
        click.echo("\n".join([*versions, f"Python {python_version()}, {platform()}, {os.cpu_count()} CPU cores"]))
        context.exit()


@click.group(cls=CommandGroup)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_environment,
    help="Show the versions of the software and its environment, for a report of a bug.",
)
def main() -> None:
    """Calibrated pseudo-labels from a promptable segmentation model, and a student trained on them.

    To run the whole workflow: conformalsam run RUN. To run one stage:
    conformalsam calibrate RUN --set alpha=0.1. RUN is a run file, or its name in config/. Default: demo.
    """


@run_command(main)
def prepare(settings: Settings) -> None:
    """Check images and masks, and split them -> samples.json."""
    from pipeline.stages.prepare import prepare as stage

    run_stage(settings, "prepare", stage)


@main.command()
@click.option("--shard", "part", metavar="I_of_N", help="Annotate a part of the images only, e.g. 2_of_4, into the "
              "maps that runs share. Without it, annotate gathers them.")  # fmt: skip
@run_argument
def annotate(settings: Settings, part: str | None) -> None:
    """Annotate every image -> probability maps, probs.zarr.

    Resumes at the image where it stopped.
    """
    from pipeline.shards import parse_shard
    from pipeline.stages.annotate import annotate as stage
    from pipeline.stages.annotate import annotate_shard

    if part is None:
        run_stage(settings, "annotate", stage)
        return
    shard = parse_shard(part)
    with explained_disk(settings.folder):
        annotate_shard(settings, shard)


@run_command(main)
def calibrate(settings: Settings) -> None:
    """Labeled maps and masks -> thresholds, calibration.zarr.

    Estimates coverage and precision on held-out labeled images.
    """
    from pipeline.stages.calibrate import calibrate as stage

    run_stage(settings, "calibrate", stage)


@run_command(main)
def pseudolabel(settings: Settings) -> None:
    """Unlabeled maps and thresholds -> labels.zarr.

    A pixel without a label is NaN. Resumes at the image where it stopped.
    """
    from pipeline.stages.pseudolabel import pseudolabel as stage

    run_stage(settings, "pseudolabel", stage)


@run_command(main)
def baseline(settings: Settings) -> None:
    """Train on the labeled images alone -> baseline.json.

    The same student, for as many steps as both stages together. Resumes from the last checkpoint.
    """
    from pipeline.stages.baseline import baseline as stage

    run_stage(settings, "baseline", stage)


@run_command(main)
def report(settings: Settings) -> None:
    """Settings and results of all stages -> report.html, one file."""
    from pipeline.stages.report import report as stage

    run_stage(settings, "report", stage)


for tool in TOOLS:
    main.add_command(tool)


def every_command() -> click.Group:
    """These commands and those of `train`, which are loaded by entry point."""
    for command in entry_points(group="conformalsam.commands"):
        main.add_command(command.load(), command.name)
    return main


def conformalsam() -> None:
    """Console script."""
    every_command()()


if __name__ == "__main__":
    conformalsam()

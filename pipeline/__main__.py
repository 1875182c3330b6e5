"""Command line: one command a stage, in the order of the data flow, then the tools."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from pipeline.cli import CommandGroup, run_command
from pipeline.commands import TOOLS
from pipeline.run import Run
from pipeline.settings import Settings


@click.group(cls=CommandGroup)
@click.version_option(package_name="conformalsam")
def main() -> None:
    """Trustworthy pseudo-labels from a promptable segmentation model, and a student trained on them.

    Most of the time you want the whole flow: snakemake --cores 8 all --config run=NAME. These commands run one stage
    of it, on one run file, e.g.: conformalsam calibrate --run camvid --set alpha=0.1
    """


@run_command(main)
def prepare(settings: Settings) -> None:
    """Find and check the images and masks, split them -> samples.json."""
    from pipeline.stages.prepare import prepare as stage

    Run(settings).finish("prepare", stage(settings))


@run_command(main)
def annotate(settings: Settings) -> None:
    """Probability maps of the annotator for every image -> probs.zarr. Resumes by image."""
    from pipeline.stages.annotate import annotate as stage

    Run(settings).finish("annotate", stage(settings))


@run_command(main)
def calibrate(settings: Settings) -> None:
    """Maps and masks of the labelled images -> thresholds, and what they are worth, calibration.zarr."""
    from pipeline.stages.calibrate import calibrate as stage

    Run(settings).finish("calibrate", stage(settings))


@run_command(main)
def pseudolabel(settings: Settings) -> None:
    """Maps and thresholds -> labels of the unlabelled images, NaN = abstain, labels.zarr. Resumes by image."""
    from pipeline.stages.pseudolabel import pseudolabel as stage

    Run(settings).finish("pseudolabel", stage(settings))


@run_command(main)
def report(settings: Settings) -> None:
    """Everything that ran and came out -> report.html, one self-contained file."""
    from pipeline.stages.report import report as stage

    Run(settings).finish("report", stage(settings))


for tool in TOOLS:
    main.add_command(tool)


def conformalsam() -> None:
    """Console script: these commands and the trainer's, which are found by entry point and never imported here."""
    sys.path.insert(0, "")  # as `python -m pipeline` does: an annotator of your own is found in the folder you run in
    for command in entry_points(group="conformalsam.commands"):
        main.add_command(command.load(), command.name)
    main()


if __name__ == "__main__":
    main()

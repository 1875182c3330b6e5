"""Command line of the trainer: one command a stage."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the working folder there: a file calib.py or scipy.py in it would be imported

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli import CommandGroup, run_argument, run_command
from pipeline.run import Run
from pipeline.settings import Settings
from train.machine.launch import launch, must_launch


@click.group(cls=CommandGroup)
def main() -> None:
    """Train a student on labels and pseudo-labels, and measure it.

    These commands need what `python -m pipeline` wrote for the same run, e.g.: python -m train stage1 RUN
    """


def run_stage(settings: Settings, name: str, stage: Callable[[Settings], dict[str, Any]]) -> None:
    """Run a stage in as many processes as the settings say; the first of them writes the receipt."""
    from train.machine.processes import process_group

    if must_launch(settings.train.processes):
        sys.exit(launch(sys.argv[1:], settings.train.processes))
    with process_group(settings.train.device) as world:
        facts = stage(settings)
        if world.is_main:
            Run(settings).finish(name, facts)


@run_command(main)
def stage1(settings: Settings) -> None:
    """Labels and pseudo-labels -> student of Stage I, stage1/.

    Resumes at the last checkpoint.
    """
    from train.stage1 import stage1 as stage

    run_stage(settings, "stage1", stage)


@run_command(main)
def stage2(settings: Settings) -> None:
    """The same student, on labels of its own -> stage2/.

    Resumes at the last checkpoint.
    """
    from train.stage2 import stage2 as stage

    run_stage(settings, "stage2", stage)


@run_command(main)
def evaluate(settings: Settings) -> None:
    """Measure the students on the val images -> evaluate.json.

    A few predictions are kept in evaluate/ for the report.
    """
    from train.evaluate import evaluate as stage

    run_stage(settings, "evaluate", stage)


@main.command()
@run_argument
def probe(settings: Settings) -> None:
    """Ask small students which labels to train on -> probe.json.

    Prints the answer with its command.

    Decoders on the features of a frozen pretrained encoder learn from the labeled images alone, from the annotator's
    argmax and from the best calibrated labels, each with several weights; every labeled image judges those that have
    not seen its mask. Takes minutes of one core; needs what calibrate wrote. What is done is kept in probe/ of the run.
    """
    from train.probe.probe import is_told
    from train.probe.probe import probe as stage
    from train.probe.table import format_probe

    run, facts = Run(settings), stage(settings)
    if not is_told(run, facts):
        run.finish("probe", facts)
    click.echo(format_probe(settings.name, facts))


@main.command()
@click.argument("images", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--student", required=True, type=click.Path(path_type=Path), help="e.g. results/demo/stage2/student")
@click.option("--window", type=click.IntRange(min=32), help="Side of a sliding window, pixels. Default: whole images.")
@click.option("--stride", type=click.IntRange(min=1), help="Step of the window. Default: two thirds of its side.")
@click.option("--flips", is_flag=True, help="Also look at the mirrored image.")
@click.option("--scales", default="1", show_default=True, help="Sizes to look at the image in, e.g. 0.75,1,1.25.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Windows at a time.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that decode.")
@click.option("--probabilities", is_flag=True, help="Also write ID.npy, float16 [class, row, column].")
@click.option("--overwrite", is_flag=True, help="Redo predictions that are there.")
def predict(
    images: Path, out: Path, student: Path, device: str, probabilities: bool, overwrite: bool, scales: str, **how: Any
) -> None:
    """Apply a student to every image of a folder.

    Images of FOLDER and its sub-folders -> OUT/ID.png and OUT/classes.txt.
    The PNGs have a palette; their values are class indices, lines of classes.txt. STUDENT is a folder that training
    wrote, or any of a semantic segmentation network in transformers format. Run it again to go on after an
    interruption: what is there is left as it is.
    """
    from train.predict import Request, settings_of
    from train.predict import predict as run

    request = Request(images, out, student, settings_of(scales=scales, **how), device, probabilities, overwrite)
    click.echo(f"wrote {run(request)} predictions to {out}")


@main.command()
@click.argument("name", required=False)
def presets(name: str | None) -> None:
    """List the training recipes, or the settings of one, NAME.

    In a run file: preset: plus; on the command line: --set preset=plus (Snakemake: --config preset=plus). What the run
    file itself sets comes first.
    """
    from train.presets import preset_list, preset_settings

    click.echo(preset_list() if name is None else preset_settings(name), nl=False)


if __name__ == "__main__":
    main()

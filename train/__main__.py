"""Command line of the trainer: one command per stage."""

from __future__ import annotations

import contextlib
import json
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the working folder there: a file calib.py or scipy.py in it would be imported

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from pipeline.cli import CommandGroup, explained_disk, run_argument, run_command
from pipeline.lock import only_writer
from pipeline.run import Run
from pipeline.settings import MAX_PIXELS, Settings
from train.machine.launch import is_first_process, launch, must_launch

if TYPE_CHECKING:
    from train.export_student import Format
    from train.step_times import TrainingStage


@click.group(cls=CommandGroup)
def main() -> None:
    """Train a student on labels and pseudo-labels, and measure it.

    These commands read the files that `python -m pipeline` wrote for the same run. Example: python -m train stage1 RUN
    """


def run_stage(settings: Settings, name: str, stage: Callable[[Settings], dict[str, Any]]) -> None:
    """Run a stage in `train.processes` processes; the first of them writes everything, the receipt last.

    That process holds the stage's lock. So the lock lasts as long as something is written, whichever process is killed.
    """
    from train.loader import explained_deaths
    from train.machine.processes import process_group

    if must_launch(settings.train.processes):
        sys.exit(launch(sys.argv[1:], settings.train.processes))
    run = Run(settings)
    with contextlib.ExitStack() as held:
        held.enter_context(explained_disk(run.folder.path))
        held.enter_context(explained_deaths("train.workers and evaluate.workers"))
        if is_first_process():
            held.enter_context(only_writer(run.folder.path, name))
        world = held.enter_context(process_group(settings.train.device))
        facts = stage(settings)
        if world.is_main:
            run.finish(name, facts)


@run_command(main)
def stage1(settings: Settings) -> None:
    """Labels and pseudo-labels -> student of Stage I, stage1/.

    Resumes from the last checkpoint.
    """
    from train.stage1 import stage1 as stage

    run_stage(settings, "stage1", stage)


@run_command(main)
def stage2(settings: Settings) -> None:
    """The same student, on its own labels -> stage2/.

    Resumes from the last checkpoint.
    """
    from train.stage2 import stage2 as stage

    run_stage(settings, "stage2", stage)


@run_command(main)
def evaluate(settings: Settings) -> None:
    """Measure the students on the val images -> evaluate.json.

    A few predictions are written to evaluate/ for the report.
    """
    from train.evaluate import evaluate as stage

    run_stage(settings, "evaluate", stage)


@main.command()
@run_argument
def probe(settings: Settings) -> None:
    """Compare labels by training small students -> probe.json.

    Prints the result, and the command that trains on the best labels.

    Small decoders on the features of a frozen pretrained encoder are trained on the labeled images alone, with the
    annotator's argmax, and with the best calibrated labels, each with several weights. They are compared by
    cross-fitting: each labeled image judges only students that were not trained on it. Takes minutes on one core.
    Needs a finished calibrate. Finished students are kept in probe/ of the run, so an interrupted probe continues.
    """
    from train.probe.probe import is_recorded
    from train.probe.probe import probe as stage
    from train.probe.table import format_probe

    run = Run(settings)
    with explained_disk(run.folder.path), only_writer(run.folder.path, "probe"):
        facts = stage(settings)
        if not is_recorded(run, facts):
            run.finish("probe", facts)
    click.echo(format_probe(settings.name, facts))


@main.command()
@click.argument("images", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--student", required=True, type=click.Path(path_type=Path), help="e.g. results/demo/stage2/student")
@click.option(
    "--window",
    type=click.IntRange(min=32),
    help="Side of a sliding window, pixels. Default: whole images; 1024 above 33 megapixels.",
)
@click.option("--stride", type=click.IntRange(min=1), help="Step of the window. Default: two thirds of its side.")
@click.option("--flips", is_flag=True, help="Average over the image and its mirror image.")
@click.option("--scales", default="1", show_default=True, help="Scales to average over, e.g. 0.75,1,1.25.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, help="Windows per pass.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that decode.")
@click.option("--max-pixels", type=click.IntRange(min=1), default=MAX_PIXELS, show_default=True,
              help="Largest image that is read.")  # fmt: skip
@click.option("--probabilities", is_flag=True, help="Also write ID.npy, float16 [class, row, column].")
@click.option("--overwrite", is_flag=True, help="Replace existing predictions.")
def predict(
    images: Path,
    out: Path,
    student: Path,
    device: str,
    probabilities: bool,
    overwrite: bool,
    max_pixels: int,
    scales: str,
    **options: Any,
) -> None:
    """Apply a student to every image of a folder.

    Images of FOLDER and its sub-folders -> OUT/ID.png and OUT/classes.txt.
    The PNGs have a palette; their values are class indices, the line numbers of classes.txt counted from 0. STUDENT is
    a folder that training wrote, or a folder with any semantic segmentation network in transformers format. After an
    interruption, run the same command again: existing predictions are kept.

    With a window, the predictions of overlapping windows are averaged, and only the rows of a window are predicted at a
    time, at each scale, so images may have any size that fits into memory. Without one, the probabilities of the whole
    image are in memory, several times with several scales.
    """
    from train.loader import explained_deaths
    from train.predict import Request, settings_of
    from train.predict import predict as run

    chosen = settings_of(scales=scales, **options)
    request = Request(images, out, student, chosen, device, probabilities, overwrite, max_pixels)
    with explained_deaths("--workers"), explained_disk(out):
        number = run(request)
    click.echo(f"wrote {number} predictions to {out}")


@main.command("export-student")
@run_argument
@click.option("--to", "form", required=True, type=click.Choice(["onnx", "torchscript"]), help="Format.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: export/student.onnx or .pt of the run.")
def export_student(settings: Settings, form: Format, out: Path | None) -> None:
    """Write the student as one file for other software.

    Images go in as pixels, uint8 [B, 3, H, W] RGB of any size; probabilities come out, float32 [B, K, H, W], those of
    `predict` without further options. The file is compared with torch at three sizes before it appears, and holds the
    names of the classes.
    """
    from train.export_student import export_student as export
    from train.export_student import format_exported

    run = Run(settings)
    with explained_disk(out.parent if out else run.folder.path):
        exported = export(settings, form, out)
    click.echo(format_exported(exported, form, settings.evaluate))


@main.command("step-times", hidden=True)
@click.argument("stage", type=click.Choice(["stage1", "stage2"]))
@click.argument("request", type=click.File("r"))
def step_times(stage: TrainingStage, request: IO[str]) -> None:
    """Time a few training steps on random images, for `doctor`; prints JSON.

    REQUEST is JSON: `settings` of a run, and `num_images` by split.
    """
    from train.step_times import step_times as measured

    asked = json.load(request)
    settings = Settings.model_validate_json(json.dumps(asked["settings"]))
    click.echo(json.dumps(measured(settings, stage, asked["num_images"])))


@main.command()
@click.argument("name", required=False)
def presets(name: str | None) -> None:
    """List the training recipes, or the settings of one, NAME.

    In a run file: preset: plus; on the command line: --set preset=plus (Snakemake: --config preset=plus). Settings of
    the run file take precedence over those of the preset.
    """
    from train.presets import preset_list, preset_settings

    click.echo(preset_list() if name is None else preset_settings(name), nl=False)


if __name__ == "__main__":
    main()

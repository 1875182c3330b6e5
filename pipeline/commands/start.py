"""Commands to begin with: a run file for one's own images, and what could go wrong with a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.cli import run_argument
from pipeline.settings import Settings


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--masks", "masks", metavar="FEW", required=True, type=click.Path(path_type=Path),
              help="Folder of index masks, named as their images (cat.jpg: cat.png).")  # fmt: skip
@click.option("--classes", "class_list", type=click.Path(path_type=Path),
              help="Text file, a class a line in the order of mask values: NAME, or NAME: VALUE = PROMPT.")  # fmt: skip
@click.option(
    "--name",
    help="Of the run: config/NAME.yaml, results/NAME. Default: the name of the images' folder, or of the one around it "
    "if that is called images, photos or the like.",
)
@click.option("--background", metavar="CLASS", help="Class that stands for everything else, or `none`.")
@click.option("--annotator", type=click.Choice(["seem", "onnx", "python"]), default="seem", show_default=True)
@click.option("--checkpoint", help="Folder of SEEM (or seem-nano), .onnx file, or module:factory.  "
              "[default: checkpoints/focal-l]")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Write one more setting; repeatable.")
def init(
    images: Path,
    masks: Path,
    class_list: Path | None,
    name: str | None,
    background: str | None,
    annotator: str,
    checkpoint: str | None,
    overrides: tuple[str, ...],
) -> None:
    """A run file for your own images: IMAGES and the few masks you have -> config/NAME.yaml.

    Images without a mask are unlabelled and need nothing. A fifth of the masks, drawn with a seed, is kept to measure
    the student. Nothing is copied or moved, and a run file that exists is not overwritten.
    """
    from pipeline.init import Choices, start
    from pipeline.run_file import parse_overrides

    choices = Choices(images, masks, class_list, name, background, annotator, checkpoint, parse_overrides(overrides))
    for line in start(choices):
        click.echo(line)


@click.command()
@run_argument
@click.option("--quick", type=click.IntRange(min=1), metavar="N", help="Look at N images only.")
@click.option("--time", "timed", is_flag=True, help="Try the annotator on a few images, to tell how long all take.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(settings: Settings, quick: int | None, timed: bool, as_json: bool) -> None:
    """What could go wrong with a run, before any heavy work; exit code 1 if it should not start.

    RUN is a run file, or its name in config/. Images and masks are read once, by the readers of the run itself.
    """
    from pipeline import doctor as examination

    context = click.get_current_context()
    words = [f"run={context.params['run']}", *context.params["overrides"]]
    command = f"snakemake --cores 8 all --config {' '.join(words)}"
    findings = examination.examine(settings, quick, timed)
    if as_json:
        click.echo(json.dumps(examination.as_json(findings, command), indent=1))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(examination.verdict(findings, command))
    if examination.counts(findings)["error"]:
        context.exit(1)

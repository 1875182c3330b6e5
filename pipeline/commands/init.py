"""The command that writes a run file for a folder of images."""

from __future__ import annotations

from pathlib import Path

import click


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
    """Write a run file for your own images and masks.

    IMAGES and the few masks you have -> config/NAME.yaml. Images without a mask are unlabeled and need nothing. A
    fifth of the masks, drawn with a seed, is kept to measure the student. Nothing is copied or moved, and a run file
    that exists is not overwritten.
    """
    from pipeline.init import Choices, start
    from pipeline.run_file import parse_overrides

    choices = Choices(images, masks, class_list, name, background, annotator, checkpoint, parse_overrides(overrides))
    for line in start(choices):
        click.echo(line)

"""Command `init`: writes a run file for a folder of images."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import COLOURS_OPTION, UNANNOTATED_OPTION


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--masks", "masks", metavar="FEW", required=True, type=click.Path(path_type=Path),
              help="Folder of index masks, named as their images (cat.png for cat.jpg); or annotations: COCO JSON, "
              "CVAT (XML or Segmentation mask 1.1), LabelMe, Label Studio, YOLO: a file, a folder or zip.")  # fmt: skip
@click.option("--classes", "class_list", type=click.Path(path_type=Path),
              help="Text file, one class per line in order of mask values: NAME, or NAME: VALUE = PROMPT; for "
              "annotations NAME: LABEL = PROMPT.")  # fmt: skip
@COLOURS_OPTION
@click.option(
    "--name",
    help="Name of the run: config/NAME.yaml, results/NAME. Default: the name of the folder IMAGES, or of its parent if "
    "the folder is called images, photos or similar.",
)
@click.option("--background", metavar="CLASS", help="Class of everything else, or `none`: pixels that are in no "
              "outline of annotations are then void.")  # fmt: skip
@UNANNOTATED_OPTION
@click.option(
    "--annotator",
    type=click.Choice(["seem", "transformers", "onnx", "maps", "python"]),
    default="seem",
    show_default=True,
)
@click.option("--checkpoint", help="Folder of a SEEM checkpoint (or seem-nano), folder or hub name of a network in "
              "transformers format, .onnx file, folder of maps, or module:factory.  "
              "[default: checkpoints/focal-l]")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Write a further setting; repeatable.")
def init(
    images: Path,
    masks: Path,
    class_list: Path | None,
    colours: Path | None,
    name: str | None,
    background: str | None,
    annotator: str,
    checkpoint: str | None,
    unannotated: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Write a run file for your own images and masks.

    IMAGES and a few masks -> config/NAME.yaml. Images without a mask are unlabeled. A fifth of the masks, drawn with a
    seed, become val images, on which the student is evaluated. No file is copied or moved, and an existing run file is
    not overwritten. Annotations are converted to index masks in the folder converted/NAME beside IMAGES.
    """
    from pipeline.init import Choices, start
    from pipeline.overrides import parse_overrides

    keep = unannotated == "background"
    choices = Choices(
        *(images, masks, class_list, name, background, annotator, checkpoint, colours, keep), parse_overrides(overrides)
    )
    for line in start(choices):
        click.echo(line)

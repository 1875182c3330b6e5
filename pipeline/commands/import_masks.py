"""Command `import-masks`: reads corrected masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli import COLOURS_OPTION, SET_OPTION, UNANNOTATED_OPTION


@click.command("import-masks")
@click.argument("run", metavar="RUN")
@click.argument("source", metavar="FOLDER_OR_ZIP", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "format_name",
    metavar="FORMAT",
    help="png (an export), masks (in the mask values of the run), cvat, yolo, labelme, label-studio or coco. Default: "
    "detected.",
)
@COLOURS_OPTION
@click.option("--overwrite", is_flag=True, help="Also import masks of images that are already labeled.")
@click.option("--unchanged", is_flag=True, help="Also import masks that equal the exported ones.")
@UNANNOTATED_OPTION
@SET_OPTION
def import_masks(
    run: str,
    source: Path,
    format_name: str | None,
    colours: Path | None,
    overwrite: bool,
    unchanged: bool,
    unannotated: str | None,
    overrides: Sequence[str],
) -> None:
    """Corrected masks -> labeled images of a new run file.

    RUN is a run file, or its name in config/. FOLDER_OR_ZIP is an edited export (png, coco, cvat), or annotations of
    another tool: COCO JSON, CVAT (XML or masks), LabelMe, Label Studio, YOLO, masks in colours. The masks are written
    to DATA_ROOT/corrected/NAME with new id lists, and a new run file RUN_corrected reads them. Val images stay the
    same, and no existing file is changed. Masks that equal the exported ones are left out, because a model must not be
    calibrated on its own labels.
    """
    from pipeline.exchange.import_masks import import_masks as import_corrected
    from pipeline.exchange.import_masks import summary

    keep = unannotated == "background"
    options = {"overwrite": overwrite, "unchanged": unchanged, "unannotated": keep}
    click.echo(summary(import_corrected(run, overrides, source, format_name, colours=colours, **options)))

"""The command that reads corrected masks back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli import SET_OPTION


@click.command("import-masks")
@click.argument("run", metavar="RUN")
@click.argument("source", metavar="FOLDER_OR_ZIP", type=click.Path(path_type=Path))
@click.option("--from", "format_name", metavar="FORMAT", help="png, coco or cvat. Default: found out.")
@click.option("--overwrite", is_flag=True, help="Also take masks of images that are labeled already.")
@click.option("--unchanged", is_flag=True, help="Also take masks that are as they were exported.")
@SET_OPTION
def import_masks(
    run: str, source: Path, format_name: str | None, overwrite: bool, unchanged: bool, overrides: Sequence[str]
) -> None:
    """Corrected masks -> labeled images of a new run file.

    RUN is a run file, or its name in config/.
    FOLDER_OR_ZIP is an edited export (png, coco, cvat) or what CVAT exports as Segmentation mask 1.1 or COCO. The masks
    go to DATA_ROOT/corrected/NAME with new id lists, and a run file RUN_corrected that reads them: validation images
    stay what they are, and no file of yours is changed. Masks that are as they were exported are left out: a model must
    not be calibrated on its own labels.
    """
    from pipeline.exchange.import_masks import import_masks as take
    from pipeline.exchange.import_masks import summary

    click.echo(summary(take(run, overrides, source, format_name, overwrite=overwrite, unchanged=unchanged)))

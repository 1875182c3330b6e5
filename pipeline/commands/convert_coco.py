"""Command `convert-coco`: converts COCO's annotations to masks."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import UNANNOTATED_OPTION


@click.command("convert-coco")
@click.argument("root", type=click.Path(path_type=Path))
@UNANNOTATED_OPTION
def convert_coco(root: Path, unannotated: str | None) -> None:
    """Convert COCO's instances -> index masks, ROOT/masks.

    Reads ROOT/annotations/instances_*.json. Resumes at the image where it stopped.

    Images without any annotation get no mask, so that images that nobody has annotated are no background. In COCO's
    official files they are background: add --unannotated background.

    Value 0 is background, 1 to 80 are the categories in the order of their ids, and 255 are crowds. Where objects
    overlap, the smaller one is on top. Reading the JSON of train2017 needs about 3 GB of memory.
    """
    from pipeline.sources.convert_masks import convert_coco as convert

    masks = convert(root, keep_unannotated=unannotated == "background")
    click.echo(f"wrote {masks}; in a run file: data: {{layout: coco, root: {root}}}")

"""Command `convert-coco`: converts COCO's annotations to masks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert-coco")
@click.argument("root", type=click.Path(path_type=Path))
def convert_coco(root: Path) -> None:
    """Convert COCO's instances -> index masks, ROOT/masks.

    Reads ROOT/annotations/instances_*.json. Resumes at the image where it stopped.

    Value 0 is background, 1 to 80 are the categories in the order of their ids, and 255 are crowds. Where objects
    overlap, the smaller one is on top. Reading the JSON of train2017 needs about 3 GB of memory.
    """
    from pipeline.sources.convert_masks import convert_coco as convert

    click.echo(f"wrote {convert(root)}; in a run file: data: {{layout: coco, root: {root}}}")

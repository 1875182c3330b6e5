"""Command `convert-sbd`: converts SBD's masks to VOC's format."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert-sbd")
@click.argument("sbd", type=click.Path(path_type=Path))
@click.argument("voc", type=click.Path(path_type=Path))
def convert_sbd(sbd: Path, voc: Path) -> None:
    """Convert SBD's masks -> VOC/SegmentationClassAug.

    Also writes the list train_aug. Resumes at the image where it stopped. SBD is the folder benchmark_RELEASE and VOC
    the folder VOCdevkit/VOC2012 of the official archives. Where VOC has a mask of its own, that one is copied.
    """
    from pipeline.sources.convert_masks import convert_sbd as convert
    from pipeline.sources.convert_masks.sbd import TRAIN_AUG
    from pipeline.sources.splits import verify as compare

    folder = convert(sbd, voc)
    click.echo(str(compare([voc / TRAIN_AUG])[0]))
    click.echo(f"wrote {folder}; in a run file: data: {{layout: voc, masks: SegmentationClassAug}}")

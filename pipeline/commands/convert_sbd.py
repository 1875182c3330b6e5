"""The command that converts SBD's masks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert-sbd")
@click.argument("sbd", type=click.Path(path_type=Path))
@click.argument("voc", type=click.Path(path_type=Path))
def convert_sbd(sbd: Path, voc: Path) -> None:
    """Convert SBD's masks -> VOC/SegmentationClassAug.

    Also writes the list train_aug. Resumes at the image where it stopped. SBD is benchmark_RELEASE, VOC is
    VOCdevkit/VOC2012, both as their official archives unpack. Where VOC has a mask of its own it is taken.
    """
    from pipeline.sources.convert_masks import convert_sbd as convert
    from pipeline.sources.convert_masks.sbd import TRAIN_AUG
    from pipeline.sources.splits import verify as judge

    folder = convert(sbd, voc)
    click.echo(str(judge([voc / TRAIN_AUG])[0]))
    click.echo(f"wrote {folder}; in a run file: data: {{layout: voc, masks: SegmentationClassAug}}")

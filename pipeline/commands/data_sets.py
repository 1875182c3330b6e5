"""Commands that convert masks and check or make split lists of public data sets."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert-sbd")
@click.argument("sbd", type=click.Path(path_type=Path))
@click.argument("voc", type=click.Path(path_type=Path))
def convert_sbd(sbd: Path, voc: Path) -> None:
    """SBD's masks beside VOC's own -> VOC/SegmentationClassAug and the list train_aug. Resumes by image.

    SBD is benchmark_RELEASE, VOC is VOCdevkit/VOC2012, both as their official archives unpack. Where VOC has a mask of
    its own it is taken.
    """
    from pipeline.sources.convert_masks import convert_sbd as convert
    from pipeline.sources.convert_masks.sbd import TRAIN_AUG
    from pipeline.sources.splits import verify as judge

    folder = convert(sbd, voc)
    click.echo(str(judge([voc / TRAIN_AUG])[0]))
    click.echo(f"wrote {folder}; in a run file: data: {{layout: voc, masks: SegmentationClassAug}}")


@click.command("convert-coco")
@click.argument("root", type=click.Path(path_type=Path))
def convert_coco(root: Path) -> None:
    """COCO's instances, ROOT/annotations/instances_*.json -> one index mask an image, ROOT/masks. Resumes by image.

    0 is background, then the categories in the order of their ids (1 to 80); crowds are 255. Where objects overlap the
    smaller one wins. The JSON of train2017 needs about 3 GB of memory.
    """
    from pipeline.sources.convert_masks import convert_coco as convert

    click.echo(f"wrote {convert(root)}; in a run file: data: {{layout: coco, root: {root}}}")


@click.group()
def splits() -> None:
    """Published split lists: check them, or make ADE20K's."""


@splits.command()
@click.argument("lists", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--expect", metavar="SPLIT", help="Fail unless every list belongs to this split, e.g. voc/92.")
def verify(lists: tuple[Path, ...], expect: str | None) -> None:
    """Fingerprint and number of images of each list, and the published split that it is.

    A folder stands for every .txt below it, e.g. UniMatch's splits/pascal/92 or U2PL's data/splits. The images of an
    unlabeled.txt are judged together with the labeled.txt beside it.
    """
    from pipeline.sources.splits import refuse_others
    from pipeline.sources.splits import verify as judge

    verdicts = judge(lists, expect)
    for verdict in verdicts:
        click.echo(str(verdict))
    if expect is not None:
        refuse_others(verdicts, expect)


@splits.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def ade(root: Path, out: Path) -> None:
    """ADE20K's lists by the published recipe -> OUT/1_128 to OUT/1_8, each labeled.txt and unlabeled.txt.

    ROOT is ADEChallengeData2016, whose file names are all that is read.
    """
    from pipeline.sources.splits import write_ade_lists

    for verdict in write_ade_lists(root, out):
        click.echo(str(verdict))

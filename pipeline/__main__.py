"""Command line: one command a stage, in the order of the data flow, then the tools."""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click

from pipeline.cli import CommandGroup, run_command
from pipeline.config import Settings
from pipeline.receipt import write_receipt


@click.group(cls=CommandGroup)
@click.version_option(package_name="conformalsam")
def main() -> None:
    """Trustworthy pseudo-labels from a promptable segmentation model, and a student trained on them.

    Most of the time you want the whole flow: snakemake --cores 8 all --config run=NAME. These commands run one stage
    of it, on one run file, e.g.: conformalsam calibrate --run camvid --set alpha=0.1
    """


@run_command(main)
def prepare(settings: Settings) -> None:
    """Find and check the images and masks, split them -> samples.json."""
    from pipeline.stages.prepare import prepare as stage

    facts = stage(settings)
    write_receipt(settings.folder / "prepare.json", "prepare", facts, settings.data.tracked())


@run_command(main)
def annotate(settings: Settings) -> None:
    """Probability maps of the annotator for every image -> probs.zarr. Resumes by image."""
    from pipeline.stages.annotate import annotate as stage

    write_receipt(settings.folder / "annotate.json", "annotate", stage(settings), settings.annotate.tracked())


@run_command(main)
def calibrate(settings: Settings) -> None:
    """Maps and masks of the labelled images -> thresholds, and what they are worth, calibration.zarr."""
    from pipeline.stages.calibrate import calibrate as stage

    write_receipt(settings.folder / "calibrate.json", "calibrate", stage(settings), settings.calibrate.tracked())


@run_command(main)
def pseudolabel(settings: Settings) -> None:
    """Maps and thresholds -> labels of the unlabelled images, NaN = abstain, labels.zarr. Resumes by image."""
    from pipeline.stages.pseudolabel import pseudolabel as stage

    write_receipt(settings.folder / "pseudolabel.json", "pseudolabel", stage(settings), settings.pseudolabel.tracked())


@run_command(main)
def report(settings: Settings) -> None:
    """Everything that ran and came out -> report.html, one self-contained file."""
    from pipeline.stages.report import report as stage

    write_receipt(settings.folder / "report.json", "report", stage(settings), {})


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option("--png", "sample_id", metavar="ID", help="Write a picture of this image instead.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the picture goes. Default: ID.png.")
def inspect(store: Path, as_json: bool, sample_id: str | None, out: Path | None) -> None:
    """Facts of a Zarr store of a run, finished or not, e.g. results/demo/labels.zarr."""
    from pipeline.inspect import format_summary, inspect_store, write_picture

    if sample_id is not None:
        path = out or Path(f"{sample_id}.png")
        write_picture(store, sample_id, path)
        click.echo(f"wrote {path}")
        return
    facts = inspect_store(store)
    click.echo(json.dumps(facts, indent=1) if as_json else format_summary(facts))


@main.command()
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Where the files go. Default: checkpoints/NAME.")
def download(name: str, folder: Path | None) -> None:
    """A published SEEM checkpoint and its tokenizer, from the Hugging Face hub.

    NAME is one of these; Focal-L is the one to begin with, Focal-T the small and quick one:

    \b
      seem-focalt-v0    0.66 GB    seem-focalt-v1    0.66 GB
      seem-focall-v0    1.37 GB    seem-focall-v1    1.37 GB
      seem-samvitb-v1   0.86 GB    seem-samvitl-v1   1.76 GB

    The checkpoint's sha256 is checked. An interrupted download goes on where it was when you run it again, and what is
    complete is not fetched twice. Without network, the message says what to fetch elsewhere and where to put it.

    The licence is AFL-3.0 for the model and Apache-2.0 for its code; by downloading you agree to it.

    Next: conformalsam convert-seem checkpoints/NAME/FILE.pt OUT
    """
    from pipeline.download import download as fetch

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request at INFO, with its signed address
    click.echo(f"next: conformalsam convert-seem {fetch(name, folder)} OUT")


@main.command("convert-seem")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Default: the folder `tokenizer` beside CHECKPOINT.")
def convert_seem(checkpoint: Path, folder: Path, tokenizer: Path | None) -> None:
    """A published SEEM checkpoint (seem_*.pt) -> a folder that the annotator `seem` reads.

    The file is read as plain weights, no code of it is run. Which variant it holds is told from its contents; a name
    or shape that does not fit is an error. OUT gets config.json, model.safetensors and the tokenizer, in the
    conventions of transformers: Seem.from_pretrained(OUT) loads it.

    Next: in a run file, annotate: {annotator: seem, seem: {checkpoint: OUT}}
    """
    from pipeline.convert import convert_seem as convert

    click.echo(
        f"wrote {convert(checkpoint, folder, tokenizer)}; in a run file: "
        f"annotate: {{annotator: seem, seem: {{checkpoint: {folder}}}}}"
    )


@main.command("convert-sbd")
@click.argument("sbd", type=click.Path(path_type=Path))
@click.argument("voc", type=click.Path(path_type=Path))
def convert_sbd(sbd: Path, voc: Path) -> None:
    """SBD's masks beside VOC's own -> VOC/SegmentationClassAug and the list train_aug. Resumes by image.

    SBD is benchmark_RELEASE, VOC is VOCdevkit/VOC2012, both as their official archives unpack. Where VOC has a mask of
    its own it is taken.
    """
    from pipeline.convert_masks import convert_sbd as convert
    from pipeline.convert_masks.sbd import TRAIN_AUG
    from pipeline.splits import verify as judge

    folder = convert(sbd, voc)
    click.echo(str(judge([voc / TRAIN_AUG])[0]))
    click.echo(f"wrote {folder}; in a run file: data: {{layout: voc, masks: SegmentationClassAug}}")


@main.command("convert-coco")
@click.argument("root", type=click.Path(path_type=Path))
def convert_coco(root: Path) -> None:
    """COCO's instances, ROOT/annotations/instances_*.json -> one index mask an image, ROOT/masks. Resumes by image.

    0 is background, then the categories in the order of their ids (1 to 80); crowds are 255. Where objects overlap the
    smaller one wins. The JSON of train2017 needs about 3 GB of memory.
    """
    from pipeline.convert_masks import convert_coco as convert

    click.echo(f"wrote {convert(root)}; in a run file: data: {{layout: coco, root: {root}}}")


@main.group()
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
    from pipeline.splits import refuse_others
    from pipeline.splits import verify as judge

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
    from pipeline.splits import write_ade_lists

    for verdict in write_ade_lists(root, out):
        click.echo(str(verdict))


def conformalsam() -> None:
    """Console script: these commands and the trainer's, which are found by entry point and never imported here."""
    sys.path.insert(0, "")  # as `python -m pipeline` does: an annotator of your own is found in the folder you run in
    for command in entry_points(group="conformalsam.commands"):
        main.add_command(command.load(), command.name)
    main()


if __name__ == "__main__":
    main()

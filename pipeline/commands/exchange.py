"""Commands that hand labels to other tools, and take corrected masks back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli import SET_OPTION

FORMATS = ("png", "coco", "ome-zarr", "cvat", "huggingface")
READABLE = ("png", "coco", "cvat")


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--to", "format_name", required=True, type=click.Choice(FORMATS), help="Format to write.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: export/FORMAT beside STORE.")
@click.option("--alpha", type=float, help="Which of the stored alphas. Default: the chosen one.")
@click.option("--ids", type=click.Path(path_type=Path), help="Text file with the ids of the images, one a line.")
@click.option(
    "--most-uncertain", type=click.IntRange(min=1), metavar="N", help="The N with fewest labels, fewest first."
)
def export(
    store: Path,
    format_name: str,
    out: Path | None,
    alpha: float | None,
    ids: Path | None,
    most_uncertain: int | None,
) -> None:
    """Pseudo-labels of STORE, e.g. results/demo/labels.zarr, for other tools, at the images' own sizes.

    \b
      png          palette PNGs, 255 = no label: masks as other trainers read them
      coco         one JSON of run-length encodings with scores
      ome-zarr     OME-Zarr 0.5, images with labels in colours, for napari
      cvat         a zip "Segmentation mask 1.1" for correction in CVAT, no label = `abstain`
      huggingface  a folder that datasets.load_dataset reads

    Every export has a provenance.json: what made the labels, with what alpha, rule and versions. With --most-uncertain
    it is a review queue; corrected masks come back with `conformalsam import-masks`.
    """
    from pipeline.exchange import FORMATS as table
    from pipeline.exchange import export_labels

    written = export_labels(store, format_name, out, alpha=alpha, ids=ids, most_uncertain=most_uncertain)
    failed = f"; left out, for they failed: {', '.join(written.left_out)}" if written.left_out else ""
    click.echo(f"wrote {written.folder}: {written.num_images} images{failed}")
    click.echo(table[format_name].next_step.format(folder=written.folder))


@click.command("import-masks")
@click.argument("run", metavar="RUN")
@click.argument("source", metavar="FOLDER_OR_ZIP", type=click.Path(path_type=Path))
@click.option("--from", "format_name", type=click.Choice(READABLE), help="Format. Default: found out.")
@click.option("--overwrite", is_flag=True, help="Also take masks of images that are labelled already.")
@click.option("--unchanged", is_flag=True, help="Also take masks that are as they were exported.")
@SET_OPTION
def import_masks(
    run: str, source: Path, format_name: str | None, overwrite: bool, unchanged: bool, overrides: Sequence[str]
) -> None:
    """Masks that somebody corrected -> labelled images of a run; its next calibration counts them.

    FOLDER_OR_ZIP is an edited export (png, coco, cvat) or what CVAT exports as Segmentation mask 1.1 or COCO. The masks
    go to DATA_ROOT/corrected/NAME with new id lists, and a run file RUN_corrected that reads them: validation images
    stay what they are, and no file of yours is changed. Masks that are as they were exported are left out: a model must
    not be calibrated on its own labels.
    """
    from pipeline.exchange.import_masks import import_masks as take
    from pipeline.exchange.import_masks import summary

    click.echo(summary(take(run, overrides, source, format_name, overwrite=overwrite, unchanged=unchanged)))

"""The command that writes labels for other tools."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("png", "coco", "ome-zarr", "cvat", "huggingface")


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

"""The command that writes labels for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import run_or_store
from pipeline.settings import Settings


@click.command()
@run_or_store
@click.option("--to", "format_name", required=True, metavar="FORMAT", help="Format to write.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: export/FORMAT of the run.")
@click.option("--alpha", type=float, help="Which of the stored alphas. Default: the chosen one.")
@click.option("--ids", type=click.Path(path_type=Path), help="Text file with the ids of the images, one a line.")
@click.option(
    "--most-uncertain", type=click.IntRange(min=1), metavar="N", help="The N with fewest labels, fewest first."
)
def export(
    target: Settings | Path,
    format_name: str,
    out: Path | None,
    alpha: float | None,
    ids: Path | None,
    most_uncertain: int | None,
) -> None:
    """Write pseudo-labels in the format of another tool.

    Labels have the images' own sizes. The formats:

    \b
      png          palette PNGs, 255 = no label: masks as other trainers read them
      coco         one JSON of run-length encodings with scores
      ome-zarr     OME-Zarr 0.5, images with labels in colours, for napari
      cvat         a zip "Segmentation mask 1.1" for correction in CVAT, no label = `abstain`
      huggingface  a folder that datasets.load_dataset reads

    Every export has a provenance.json: what made the labels, with what alpha, rule and versions. With --most-uncertain
    it is a review queue; corrected masks come back with `conformalsam import-masks`.
    """
    from pipeline.exchange import FORMATS, export_labels
    from pipeline.run import Run

    store = Run(target).folder.labels if isinstance(target, Settings) else target
    written = export_labels(store, format_name, out, alpha=alpha, ids=ids, most_uncertain=most_uncertain)
    failed = f"; left out, for they failed: {', '.join(written.left_out)}" if written.left_out else ""
    click.echo(f"wrote {written.folder}: {written.num_images} images{failed}")
    click.echo(FORMATS[format_name].next_step.format(folder=written.folder))

"""Command `export`: writes labels for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli import run_or_store
from pipeline.settings import Settings


@click.command()
@run_or_store
@click.option("--to", "format_name", required=True, metavar="FORMAT", help="Format, see above.")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder. Default: export/FORMAT of the run.")
@click.option("--alpha", type=float, help="One of the stored alphas. Default: the chosen one.")
@click.option("--ids", type=click.Path(path_type=Path), help="Text file of image ids, one per line. Default: all.")
@click.option(
    "--most-uncertain",
    type=click.IntRange(min=1),
    metavar="N",
    help="N images with the lowest keep rate, lowest first.",
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

    Labels are written at the size of their images. The formats:

    \b
      png          palette PNGs, 255 = no label: masks as other trainers read them
      coco         one JSON file with run-length encodings and scores
      ome-zarr     OME-Zarr 0.5, images with coloured labels, for napari
      cvat         zip file "Segmentation mask 1.1" for CVAT, no label = `abstain`
      huggingface  folder that datasets.load_dataset reads

    Every export has a provenance.json with the alpha, the rule and the versions behind the labels. Export a review
    queue with --most-uncertain; read the corrected masks with `conformalsam import-masks`.
    """
    from pipeline.exchange import FORMATS, export_labels
    from pipeline.run import Run

    store, root = (
        (Run(target).folder.labels, Path(target.data.root)) if isinstance(target, Settings) else (target, None)
    )
    written = export_labels(store, format_name, out, alpha=alpha, ids=ids, most_uncertain=most_uncertain, root=root)
    failed = f"; without {', '.join(written.left_out)}, where the annotator failed" if written.left_out else ""
    click.echo(f"wrote {written.folder}: {written.num_images} images{failed}")
    click.echo(FORMATS[format_name].next_step.format(folder=written.folder))

"""Command `export`: writes labels for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli import run_or_store
from pipeline.errors import ConfigError
from pipeline.settings import Settings


@click.command()
@run_or_store
@click.option("--to", "format_name", metavar="FORMAT", help="Format of the pseudo-labels, see above.")
@click.option("--for", "tool_name", metavar="TOOL", help="Program that trains on human masks and pseudo-labels.")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder. Default: export/NAME of the run.")
@click.option("--alpha", type=float, help="One of the stored alphas. Default: the chosen one.")
@click.option("--ids", type=click.Path(path_type=Path), help="Text file of ids or paths of images. Default: all.")
@click.option(
    "--most-uncertain",
    type=click.IntRange(min=1),
    metavar="N",
    help="N images with the lowest keep rate, lowest first.",
)
@click.option("--copy", "copies_images", is_flag=True, help="Copy images. Default: symbolic links where possible.")
def export(
    target: Settings | Path,
    format_name: str | None,
    tool_name: str | None,
    out: Path | None,
    alpha: float | None,
    ids: Path | None,
    most_uncertain: int | None,
    copies_images: bool,
) -> None:
    """Write labels for another tool or training program.

    Labels are written at the size of their images. The formats (--to):

    \b
      png           palette PNGs, 255 = no label: masks as other trainers read them
      coco          one JSON file with run-length encodings and scores
      ome-zarr      OME-Zarr 0.5, images with coloured labels, for napari
      cvat          zip file "Segmentation mask 1.1" for CVAT, no label = `abstain`
      yolo          outlines as text, no label = background, for YOLO
      labelme       JSON with polygons beside each image, no label = `__ignore__`
      label-studio  tasks with brush strokes as predictions, and an interface
      fiftyone      folder that FiftyOne reads, and a script that opens it
      geotiff       GeoTIFFs with the georeference of the images, 255 = no data
      huggingface   folder that datasets.load_dataset reads
      huggingface-masks  the same without the images

    The programs (--for) get the human masks, the pseudo-labels and the val images in one coding, with lists and a
    README that says how to train:

    \b
      mmseg        MMSegmentation: img_dir, ann_dir and a config
      smp          segmentation-models-pytorch: lists of pairs and a script
      unimatch     UniMatch: lists of pairs and a config
      nnunet       nnU-Net v2: raw data set with a label `ignore`
      ultralytics  Ultralytics: masks (task semantic) and outlines (task segment)

    Every export has a provenance.json with the alpha, the rule and the versions behind the labels. Export a review
    queue with --most-uncertain; read the corrected masks with `conformalsam import-masks`.
    """
    from pipeline.exchange import FORMATS, TOOLS, export_labels, export_training_set
    from pipeline.run import Run

    chosen: dict[str, Any] = {"alpha": alpha, "ids": ids, "most_uncertain": most_uncertain}
    chosen["copies_images"] = copies_images
    if (format_name is None) == (tool_name is None):
        raise ConfigError("give a format or a program: --to png, or --for mmseg")
    if tool_name is not None:
        if isinstance(target, Path):
            raise ConfigError(f"{target} has no human masks; name its run instead: conformalsam export RUN --for ...")
        written = export_training_set(target, tool_name, out, **chosen)
        next_step = TOOLS[tool_name].next_step
    else:
        assert format_name is not None
        store, root = (
            (Run(target).folder.labels, Path(target.data.root)) if isinstance(target, Settings) else (target, None)
        )
        written = export_labels(store, format_name, out, root=root, **chosen)
        next_step = FORMATS[format_name].next_step
    click.echo(written.summary())
    click.echo(next_step.format(folder=written.folder))

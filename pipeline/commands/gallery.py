"""Command `gallery`: writes the gallery of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli import run_argument
from pipeline.files import write_text
from pipeline.run import Run
from pipeline.settings import Settings

MEGABYTES_TO_WARN = 25  # browsers become slow on larger pages


@click.command()
@run_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Path of the page. Default: gallery.html in the run's results.",
)
@click.option(
    "--images", "num_images", type=click.IntRange(min=1), help="How many images. Default: gallery.num_images."
)
@click.option(
    "--longest",
    "longest_side",
    type=click.IntRange(32, 2048),
    help="Longer side of the labels shown, in pixels. Default: gallery.longest_side.",
)
def gallery(settings: Settings, out: Path | None, num_images: int | None, longest_side: int | None) -> None:
    """Write a page of images with an exact slider for alpha.

    The page is one HTML file that needs no network.
    """
    from pipeline.gallery import gallery_page

    overrides: dict[str, Any] = {"num_images": num_images, "longest_side": longest_side}
    chosen = settings.gallery.model_copy(update={name: value for name, value in overrides.items() if value is not None})
    html = gallery_page(settings.model_copy(update={"gallery": chosen}))
    path = out or Run(settings).folder.gallery
    write_text(path, html)
    megabytes = len(html.encode()) / 1e6
    click.echo(f"wrote {path}, {megabytes:.1f} MB; open it in a browser")
    if megabytes > MEGABYTES_TO_WARN:
        click.echo(
            f"warning: browsers become slow above {MEGABYTES_TO_WARN} MB; use --images for fewer images, or "
            "--longest for smaller ones",
            err=True,
        )

"""Command `download`: downloads published weights."""

from __future__ import annotations

import logging
from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder of the files. Default: checkpoints/NAME.")
def download(name: str, folder: Path | None) -> None:
    """Download a published SEEM checkpoint and its tokenizer.

    Both come from the Hugging Face hub. NAME is one of these; begin with Focal-L, or with Focal-T, which is smaller and
    faster:

    \b
      seem-focalt-v0    0.66 GB    seem-focalt-v1    0.66 GB
      seem-focall-v0    1.37 GB    seem-focall-v1    1.37 GB
      seem-samvitb-v1   0.86 GB    seem-samvitl-v1   1.76 GB

    The SHA-256 of the checkpoint is verified. Run the command again to continue an interrupted download; complete files
    are not downloaded twice. Without network, the message lists the files to download elsewhere and where to put them.

    The licence is AFL-3.0 for the model and Apache-2.0 for its code; by downloading you agree to it.

    Next: conformalsam convert-seem checkpoints/NAME/FILE.pt OUT
    """
    from pipeline.annotators.download import download as fetch

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request at INFO, with its signed address
    click.echo(f"next: conformalsam convert-seem {fetch(name, folder)} OUT")

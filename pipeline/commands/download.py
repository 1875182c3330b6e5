"""The command that downloads published weights."""

from __future__ import annotations

import logging
from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Where the files go. Default: checkpoints/NAME.")
def download(name: str, folder: Path | None) -> None:
    """Download a published SEEM checkpoint and its tokenizer.

    Both come from the Hugging Face hub. NAME is one of these; Focal-L is the one to begin with, Focal-T the small and
    quick one:

    \b
      seem-focalt-v0    0.66 GB    seem-focalt-v1    0.66 GB
      seem-focall-v0    1.37 GB    seem-focall-v1    1.37 GB
      seem-samvitb-v1   0.86 GB    seem-samvitl-v1   1.76 GB

    The checkpoint's sha256 is checked. An interrupted download goes on where it was when you run it again, and what is
    complete is not fetched twice. Without network, the message says what to fetch elsewhere and where to put it.

    The licence is AFL-3.0 for the model and Apache-2.0 for its code; by downloading you agree to it.

    Next: conformalsam convert-seem checkpoints/NAME/FILE.pt OUT
    """
    from pipeline.annotators.download import download as fetch

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request at INFO, with its signed address
    click.echo(f"next: conformalsam convert-seem {fetch(name, folder)} OUT")

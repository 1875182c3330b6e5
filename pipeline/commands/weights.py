"""Commands that fetch and convert weights of annotators."""

from __future__ import annotations

import logging
from pathlib import Path

import click


@click.command()
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
    from pipeline.annotators.download import download as fetch

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request at INFO, with its signed address
    click.echo(f"next: conformalsam convert-seem {fetch(name, folder)} OUT")


@click.command("convert-seem")
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
    from pipeline.annotators.convert_seem import convert_seem as convert

    click.echo(
        f"wrote {convert(checkpoint, folder, tokenizer)}; in a run file: "
        f"annotate: {{annotator: seem, seem: {{checkpoint: {folder}}}}}"
    )

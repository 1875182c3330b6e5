"""Command `convert-seem`: converts an official SEEM checkpoint."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert-seem")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Folder of the tokenizer. Default: `tokenizer` beside CHECKPOINT.",
)
def convert_seem(checkpoint: Path, folder: Path, tokenizer: Path | None) -> None:
    """Convert a published SEEM checkpoint for the annotator.

    CHECKPOINT is a file seem_*.pt; the annotator `seem` reads the folder OUT. Only weights are read from the file, no
    code in it is executed. The variant follows from its contents; an unexpected name or shape is an error. OUT gets
    config.json, model.safetensors and the tokenizer, in the format of transformers: Seem.from_pretrained(OUT) loads it.

    Next: in a run file, annotate: {annotator: seem, seem: {checkpoint: OUT}}
    """
    from pipeline.annotators.convert_seem import convert_seem as convert

    click.echo(
        f"wrote {convert(checkpoint, folder, tokenizer)}; in a run file: "
        f"annotate: {{annotator: seem, seem: {{checkpoint: {folder}}}}}"
    )

"""Commands that look into a store of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option("--png", "sample_id", metavar="ID", help="Write a picture of this image instead.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the picture goes. Default: ID.png.")
def inspect(store: Path, as_json: bool, sample_id: str | None, out: Path | None) -> None:
    """Facts of a Zarr store of a run, finished or not, e.g. results/demo/labels.zarr."""
    from pipeline.inspect import format_summary, inspect_store, write_picture

    if sample_id is not None:
        path = out or Path(f"{sample_id}.png")
        write_picture(store, sample_id, path)
        click.echo(f"wrote {path}")
        return
    facts = inspect_store(store)
    click.echo(json.dumps(facts, indent=1) if as_json else format_summary(facts))

"""The command that shows a store and checks it."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option("--worst", default=5, show_default=True, type=click.IntRange(0), help="How many images to list.")
@click.option("--check", is_flag=True, help="Read every chunk with its checksum; exit code 1 if anything is wrong.")
@click.option(
    "--repair", is_flag=True, help="Check, and have the store's stage make anew what is damaged. Not while it runs."
)
@click.option("--png", "sample_id", metavar="ID", help="Write a picture of this image instead.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the picture goes. Default: ID.png.")
@click.pass_context
def inspect(
    context: click.Context,
    store: Path,
    as_json: bool,
    worst: int,
    check: bool,
    repair: bool,
    sample_id: str | None,
    out: Path | None,
) -> None:
    """Facts of a Zarr store of a run, finished or not, e.g. results/demo/labels.zarr."""
    from pipeline import inspect as look

    if sample_id is not None:
        path = out or Path(f"{sample_id}.png")
        look.write_picture(store, sample_id, path)
        click.echo(f"wrote {path}")
    elif check or repair:
        facts = look.repair(store) if repair else look.check_facts(look.check_store(store))
        click.echo(json.dumps(facts, indent=1) if as_json else look.format_check(facts))
        context.exit(0 if look.is_sound(facts) else 1)
    else:
        facts = look.inspect_store(store, worst)
        click.echo(json.dumps(facts, indent=1) if as_json else look.format_summary(facts))

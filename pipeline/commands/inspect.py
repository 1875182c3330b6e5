"""Command `inspect`: shows a run or a store, and checks a store."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.cli import run_or_store
from pipeline.settings import Settings


@click.command()
@run_or_store
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option(
    "--worst",
    default=5,
    show_default=True,
    type=click.IntRange(0),
    help="Number of images to list.",
)
@click.option("--check", is_flag=True, help="Verify the checksum of every chunk; exit code 1 if one is damaged.")
@click.option("--repair", is_flag=True, help="Check, and let the stage compute damaged images again.")
@click.option("--png", "sample_id", metavar="ID", help="Write a picture of this image.")
@click.option("--out", type=click.Path(path_type=Path), help="Path of the picture. Default: ID.png.")
def inspect(
    target: Settings | Path,
    as_json: bool,
    worst: int,
    check: bool,
    repair: bool,
    sample_id: str | None,
    out: Path | None,
) -> None:
    """Show a run, or one of its stores; check or repair a store.

    For a run: the finished stages with their main numbers, and the stores. For a store, e.g. results/demo/labels.zarr,
    finished or not: its settings, its progress and its numbers.
    """
    from pipeline import inspect as inspection

    context = click.get_current_context()
    if isinstance(target, Settings):
        if check or repair or sample_id is not None:
            raise click.UsageError(f"--check, --repair and --png need a store, e.g. {target.folder}/labels.zarr")
        facts = inspection.inspect_run(target)
        click.echo(json.dumps(facts, indent=1) if as_json else inspection.format_run(facts))
        return
    store = target
    if sample_id is not None:
        path = out or Path(f"{sample_id}.png")
        inspection.write_picture(store, sample_id, path)
        click.echo(f"wrote {path}")
    elif check or repair:
        facts = inspection.repair(store) if repair else inspection.check_facts(inspection.check_store(store))
        click.echo(json.dumps(facts, indent=1) if as_json else inspection.format_check(facts))
        context.exit(0 if inspection.is_sound(facts) else 1)
    else:
        facts = inspection.inspect_store(store, worst)
        click.echo(json.dumps(facts, indent=1) if as_json else inspection.format_summary(facts))

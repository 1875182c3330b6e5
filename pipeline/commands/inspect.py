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
@click.option("--check", is_flag=True, help="Verify all checksums; exit code 1 if anything is damaged.")
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
    """Show or check a run, or one of its stores; repair a store.

    For a run: the finished stages with their main numbers, and the stores; with --check, damaged samples, receipts,
    stores, checkpoints and students. For a store, e.g. results/demo/labels.zarr, finished or not: its settings, its
    progress and its numbers.
    """
    from pipeline import inspect as inspection

    context = click.get_current_context()
    if isinstance(target, Settings):
        if repair or sample_id is not None:
            raise click.UsageError(f"--repair and --png need a store, e.g. {target.folder}/labels.zarr")
        facts = inspection.check_run(target) if check else inspection.inspect_run(target)
        show = inspection.format_run_check if check else inspection.format_run
        click.echo(json.dumps(facts, indent=1) if as_json else show(facts))
        context.exit(1 if check and facts["findings"] else 0)
    store = target
    if sample_id is not None:
        click.echo(f"wrote {inspection.write_picture(store, sample_id, out)}")
    elif check or repair:
        facts = inspection.repair(store) if repair else inspection.check_facts(inspection.check_store(store))
        click.echo(json.dumps(facts, indent=1) if as_json else inspection.format_check(facts))
        context.exit(0 if inspection.is_sound(facts) else 1)
    else:
        facts = inspection.inspect_store(store, worst)
        click.echo(json.dumps(facts, indent=1) if as_json else inspection.format_summary(facts))

"""Commands that look into the stores of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from pipeline.cli import run_argument
from pipeline.errors import ConfigError
from pipeline.settings import Settings


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


@click.command()
@click.option("--id", "sample_id", required=True, help="Image, labelled or not.")
@click.option("--xy", required=True, metavar="X,Y", help="Pixel of the image itself, from its upper left corner.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@run_argument
def explain(settings: Settings, sample_id: str, xy: str, as_json: bool) -> None:
    """Every number behind the label of one pixel; exit code 1 if the stores disagree with each other."""
    from pipeline.inspect.evidence import open_evidence
    from pipeline.inspect.explain import explain as explain_pixel
    from pipeline.inspect.explain import has_problem
    from pipeline.inspect.explain_lines import format_explanation

    x, y = parse_xy(xy)
    facts = explain_pixel(open_evidence(settings, sample_id), x, y)
    click.echo(json.dumps(facts, indent=1) if as_json else format_explanation(facts))
    click.get_current_context().exit(1 if has_problem(facts) else 0)


def parse_xy(text: str) -> tuple[int, int]:
    """`12,7` -> (12, 7); ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"--xy {text} is not a pixel; write two whole numbers with a comma, e.g. --xy 12,7")
    return int(match[1]), int(match[2])

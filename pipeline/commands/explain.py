"""Command `explain`: prints the numbers behind one pixel."""

from __future__ import annotations

import json
import re

import click

from pipeline.cli import run_argument
from pipeline.errors import ConfigError
from pipeline.settings import Settings


@click.command()
@click.option("--id", "sample_id", required=True, help="Id of the image, labeled or unlabeled.")
@click.option("--xy", required=True, metavar="X,Y", help="Pixel of the image at its own size; 0,0 is the upper left.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@run_argument
def explain(settings: Settings, sample_id: str, xy: str, as_json: bool) -> None:
    """Print every number behind the label of one pixel.

    Of an image that was cut, they are those of the tile that answers for the pixel. Exit code 1 if the stores disagree
    with each other.
    """
    from pipeline.inspect.evidence import open_evidence, tile_with
    from pipeline.inspect.explain import explain as explain_pixel
    from pipeline.inspect.explain import has_problem
    from pipeline.inspect.explain_lines import format_explanation

    sample_id, x, y = tile_with(settings, sample_id, *parse_xy(xy))
    facts = explain_pixel(open_evidence(settings, sample_id), x, y)
    click.echo(json.dumps(facts, indent=1) if as_json else format_explanation(facts))
    click.get_current_context().exit(1 if has_problem(facts) else 0)


def parse_xy(text: str) -> tuple[int, int]:
    """`12,7` -> (12, 7), x and y; ConfigError for any other text."""
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"--xy {text} is not a pixel; write two integers separated by a comma, e.g. --xy 12,7")
    return int(match[1]), int(match[2])

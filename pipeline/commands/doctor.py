"""Command `doctor`: checks a run before it starts."""

from __future__ import annotations

import json

import click

from pipeline.cli import run_argument
from pipeline.run import Run
from pipeline.settings import Settings


@click.command()
@run_argument
@click.option("--quick", type=click.IntRange(min=1), metavar="N", help="Check N images only.")
@click.option("--time", "timed", is_flag=True, help="Annotate a few images and train a few steps, to estimate times.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(settings: Settings, quick: int | None, timed: bool, as_json: bool) -> None:
    """Check a run before any heavy work.

    Prints findings; the exit code is 1 if one of them is an error, and the run should not start. Every image and mask
    is read once, by the code that the run uses.
    """
    from pipeline import doctor as checks

    command = Run(settings).command("all")
    findings = checks.examine(settings, quick, timed)
    if as_json:
        click.echo(json.dumps(checks.as_json(findings, command), indent=1))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(checks.verdict(findings, command))
    if checks.counts(findings)["error"]:
        click.get_current_context().exit(1)

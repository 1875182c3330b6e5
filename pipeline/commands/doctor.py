"""The command that checks a run before it starts."""

from __future__ import annotations

import json

import click

from pipeline.cli import run_argument
from pipeline.run import Run
from pipeline.settings import Settings


@click.command()
@run_argument
@click.option("--quick", type=click.IntRange(min=1), metavar="N", help="Look at N images only.")
@click.option("--time", "timed", is_flag=True, help="Try the annotator on a few images, to tell how long all take.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(settings: Settings, quick: int | None, timed: bool, as_json: bool) -> None:
    """Check a run before any heavy work.

    Prints what could go wrong; exit code 1 if the run should not start. Images and masks are read once, by the readers
    of the run itself.
    """
    from pipeline import doctor as examination

    command = Run(settings).command("all")
    findings = examination.examine(settings, quick, timed)
    if as_json:
        click.echo(json.dumps(examination.as_json(findings, command), indent=1))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(examination.verdict(findings, command))
    if examination.counts(findings)["error"]:
        click.get_current_context().exit(1)

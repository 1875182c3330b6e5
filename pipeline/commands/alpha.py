"""Command `alpha`: compares alphas and rules, and chooses one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli import run_argument
from pipeline.run import Run
from pipeline.settings import Settings

FRACTION = click.FloatRange(0, 1, min_open=True)


@click.command()
@run_argument
@click.option("--precision", type=FRACTION, help="Choose the most labels with at least this held-out precision.")
@click.option("--keep-rate", type=FRACTION, help="Choose the most precise labels with at least this keep rate.")
@click.option("--cautious", is_flag=True, help="Require --precision of the lower end of the 95 % interval.")
@click.option("--rule", help="Choose among the alphas of this rule. Default: all rules.")
@click.option("--all", "everything", is_flag=True, help="Print all choices that no other one beats in both measures.")
@click.option("--plot", type=click.Path(path_type=Path), help="Path of the plot. Default: results/RUN/alpha.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers of every alpha and rule as JSON.")
def alpha(
    settings: Settings,
    precision: float | None,
    keep_rate: float | None,
    cautious: bool,
    rule: str | None,
    everything: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Compare alphas and rules on held-out images; choose one.

    Prints the keep rate and the held-out precision of alphas and rules of RUN, and the choice among them.

    By default the choice is that of rule auto: the largest mIoU of labels on held-out images, where a pixel without a
    label counts as missed (with the run's target_precision, if it has one). --precision and --keep-rate set another
    goal.

    Each labeled image is evaluated with thresholds from the others; unlabeled images are not used. The run must be
    calibrated; its labels are not changed. The first call takes a few minutes and writes its numbers to
    results/RUN/sweep.json.

    \b
      conformalsam alpha camvid --precision 0.97
      conformalsam alpha camvid --keep-rate 0.8 --rule paper
    """
    from pipeline.calibration.alpha_choice import Goal, choose_alpha, format_choice, write_plot

    if precision is not None and keep_rate is not None:
        raise click.UsageError("--precision and --keep-rate are two goals; give one of them")
    if cautious and precision is None:
        raise click.UsageError("--cautious needs --precision; add it, e.g. --precision 0.95")
    goal = Goal()
    if precision is not None:
        goal = Goal("precision", precision, "low" if cautious else "value")
    elif keep_rate is not None:
        goal = Goal("keep_rate", keep_rate)
    facts: dict[str, Any] = choose_alpha(settings, goal, rule)
    path = plot or Run(settings).folder.alpha_plot
    write_plot(facts, path)
    click.echo(json.dumps(facts, indent=1) if as_json else f"{format_choice(facts, everything)}\nplot        {path}")

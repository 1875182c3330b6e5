"""The command that chooses alpha."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli import run_argument
from pipeline.run import Run
from pipeline.settings import Settings

SHARE = click.FloatRange(0, 1, min_open=True)


@click.command()
@run_argument
@click.option(
    "--precision", type=SHARE, help="Instead of the largest mIoU: most labels of at least this held-out precision."
)
@click.option("--keep-rate", type=SHARE, help="Instead: the most precise labels of at least this share of the pixels.")
@click.option("--cautious", is_flag=True, help="Let the lower end of the precision's 95 % interval reach --precision.")
@click.option("--rule", help="Choose among the alphas of this rule. Default: of all rules.")
@click.option("--all", "everything", is_flag=True, help="Print the whole front.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the plot here. Default: results/RUN/alpha.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, of every alpha and rule, as JSON.")
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

    Prints what every alpha and rule would keep of RUN, how right it is on held-out images, and the one to take.

    Chosen is the largest mIoU of labels on held-out images, a pixel without a label counting as missed, as rule auto
    chooses (at the run's target_precision, if it has one); --precision and --keep-rate ask for something else.

    Labeled images are judged by thresholds from the others; unlabeled ones have no part in it. The run must be
    calibrated; nothing is labeled again, and no map is read again. The first call takes a minute or a few, and leaves
    its numbers in results/RUN/sweep.json.

    \b
      conformalsam alpha camvid --precision 0.97
      conformalsam alpha camvid --keep-rate 0.8 --rule paper
    """
    from pipeline.calibration.alpha_choice import Goal, choose_alpha, format_choice, write_plot

    if precision is not None and keep_rate is not None:
        raise click.UsageError("--precision and --keep-rate are two goals; name one")
    if cautious and precision is None:
        raise click.UsageError("--cautious is about --precision; name that, too")
    goal = Goal()
    if precision is not None:
        goal = Goal("precision", precision, "low" if cautious else "value")
    elif keep_rate is not None:
        goal = Goal("keep_rate", keep_rate)
    facts: dict[str, Any] = choose_alpha(settings, goal, rule)
    path = plot or Run(settings).folder.alpha_plot
    write_plot(facts, path)
    click.echo(json.dumps(facts, indent=1) if as_json else f"{format_choice(facts, everything)}\nplot        {path}")

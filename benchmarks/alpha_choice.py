"""Compares the choices and estimates of `conformalsam alpha` with the true values on the unlabeled images.

The sweep uses labeled images only; the masks of unlabeled images are opened here and nowhere else. The run must be
calibrated (`snakemake --cores 8 calibrate --config run=camvid root=FOLDER`):

    python benchmarks/alpha_choice.py camvid --set data.root=FOLDER
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

import calib
from pipeline.calibration.alpha_choice import Goal, choose_alpha
from pipeline.calibration.folds import candidate_rules
from pipeline.calibration.sweep import Sweep, sweep_run
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import load_samples, read_mask, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.sources import truth_path
from pipeline.store import DONE, Handle, open_probabilities

TARGETS = (0.9, 0.95, 0.97, 0.99)
METRICS = ("coverage", "precision", "keep_rate")


class TruthJob(NamedTuple):
    """One unlabeled image, its mask, and the thresholds of the sweep."""

    probabilities: Handle
    index: int
    mask: Path
    settings: Settings
    sweep: Sweep


def judge_truth(job: TruthJob) -> calib.Judgement:
    """The counts of one unlabeled image at every alpha of the sweep."""
    data, background = job.settings.data, job.settings.data.background_index
    maps = open_probabilities(job.probabilities).probabilities(job.index).rows(slice(None))
    truth = resize_nearest(read_mask(job.mask, data), data.grid)
    thresholds = job.sweep.thresholds
    return calib.judge_image(
        calib.class_planes(maps, background),
        calib.true_class_scores(maps, truth),
        truth,
        (thresholds.map(a) for a in range(len(job.sweep.alphas))),
        candidate_rules(thresholds.is_class_wise, job.settings.calibrate.variant),
        data.num_classes,
        background,
        "accept" if job.settings.calibrate.uncalibrated == "accept" else "abstain",
        maps,
    )


TrueValues = dict[tuple[float, str], dict[str, float]]
"""Alpha and rule -> value of each of METRICS."""


def true_values(settings: Settings, swept: Sweep) -> TrueValues:
    """The true values on the unlabeled images that have a mask, for every alpha and rule, raw among them."""
    path = (settings.folder / "probs.zarr").absolute()
    store = open_probabilities(path)
    index_of = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    masks = {s.id: truth_path(s, settings.data) for s in load_samples(settings.folder / "samples.json").of("unlabeled")}
    is_done = store.status == DONE
    jobs = [
        TruthJob(store.handle, index_of[i], mask.absolute(), settings, swept)
        for i, mask in masks.items()
        if mask is not None and is_done[index_of[i]]
    ]
    judged: list[calib.Judgement] = []
    run_tasks(judge_truth, jobs, settings.compute, judged.append)
    true = calib.summarise(judged, np.random.default_rng(0))
    rules = candidate_rules(swept.thresholds.is_class_wise, settings.calibrate.variant)
    values: TrueValues = {}
    for a, alpha in enumerate(swept.alphas):
        coverage = float(true.coverage.value[a])
        for r, rule in enumerate(rules):
            precision, keep_rate = float(true.precision.value[a, r]), float(true.keep_rate.value[a, r])
            values[alpha, rule] = {"coverage": coverage, "precision": precision, "keep_rate": keep_rate}
        raw = float(true.raw.precision.value)
        values[alpha, "raw"] = {"coverage": coverage, "precision": raw, "keep_rate": 1.0}
    return values


def choices(settings: Settings, true: TrueValues) -> Iterator[str]:
    """A table row for every target, by the estimate and by the lower end of its interval."""
    for target in TARGETS:
        for end in ("value", "low"):
            facts = choose_alpha(settings, Goal("precision", target, end))  # type: ignore[arg-type]
            claim = facts["chosen"]
            real = true[claim["alpha"], claim["rule"]]
            cells = [
                f"{target:.0%}{', cautious' if end == 'low' else ''}{'' if facts['is_reached'] else ' (not reached)'}",
                f"{claim['rule']} at {claim['alpha']:g}",
                "{value:.1%} [{low:.1%}, {high:.1%}]".format(**claim["precision"]),
                f"{real['precision']:.1%}",
                f"{claim['keep_rate']['value']:.1%}",
                f"{real['keep_rate']:.1%}",
            ]
            yield f"| {' | '.join(cells)} |"


def verdict(swept: Sweep, true: TrueValues) -> Iterator[str]:
    """For each metric, how many intervals contain the true value, and the largest error."""
    for metric in METRICS:
        pairs = [(row[metric], true[row["alpha"], row["rule"]]) for row in swept.rows]
        defined = [(claim, real[metric]) for claim, real in pairs if claim and not np.isnan(real[metric])]
        held = sum(claim["low"] <= real <= claim["high"] for claim, real in defined)
        errors = np.array([claim["value"] - real for claim, real in defined])
        yield (
            f"| {metric.replace('_', ' ')} | {held} of {len(defined)} ({held / len(defined):.0%}) "
            f"| {100 * errors.mean():+.1f}, {100 * errors[np.abs(errors).argmax()]:+.1f} points |"
        )


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override one setting.")
def main(run: str, overrides: tuple[str, ...]) -> None:
    """Print the choice for some target precisions, and how many intervals contain the true value."""
    settings = load_settings(run, parse_overrides(overrides))
    swept = sweep_run(settings)
    true = true_values(settings, swept)
    click.echo("| target | chosen | precision claimed | true | keep rate claimed | true |\n|---|---|---|---|---|---|")
    for line in choices(settings, true):
        click.echo(line)
    click.echo("\n| estimate | interval contains the true value | claimed minus true: mean, largest |\n|---|---|---|")
    for line in verdict(swept, true):
        click.echo(line)


if __name__ == "__main__":
    main()

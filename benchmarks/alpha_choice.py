"""What `conformalsam alpha` chooses and claims, beside what is true of the unlabeled images.

The sweep knows the labeled images alone; the masks of unlabeled ones are opened here and nowhere else. The run must
have been calibrated (`snakemake calibrate`):

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
from pipeline.calibration.cross_fitting import candidate_rules
from pipeline.calibration.sweep import Sweep, sweep_run
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import load_samples, read_mask, resize_nearest
from pipeline.run_file import load_settings, parse_overrides
from pipeline.settings import Settings
from pipeline.sources import truth_path
from pipeline.store import DONE, open_probabilities

TARGETS = (0.9, 0.95, 0.97, 0.99)
METRICS = ("coverage", "precision", "keep_rate")


class TruthJob(NamedTuple):
    """One unlabeled image, its mask, and the thresholds of the sweep."""

    probabilities: Path
    position: int
    mask: Path
    settings: Settings
    sweep: Sweep


def judge_truth(job: TruthJob) -> calib.Judgement:
    """Counts of one unlabeled image at every stop of the sweep."""
    data, background = job.settings.data, job.settings.data.background_index
    maps = open_probabilities(job.probabilities).probabilities(job.position).rows(slice(None))
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


TrueShares = dict[tuple[float, str], dict[str, float]]
"""Alpha and rule -> share by METRIC."""


def true_shares(settings: Settings, swept: Sweep) -> TrueShares:
    """What is true of the unlabeled images that have a mask, for every alpha and rule, raw among them."""
    path = (settings.folder / "probs.zarr").absolute()
    store = open_probabilities(path)
    position = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    masks = {s.id: truth_path(s, settings.data) for s in load_samples(settings.folder / "samples.json").of("unlabeled")}
    jobs = [
        TruthJob(path, position[i], mask.absolute(), settings, swept)
        for i, mask in masks.items()
        if mask is not None and store.status[position[i]] == DONE
    ]
    judged: list[calib.Judgement] = []
    run_tasks(judge_truth, jobs, settings.compute, judged.append)
    true = calib.summarise(judged, np.random.default_rng(0))
    rules = candidate_rules(swept.thresholds.is_class_wise, settings.calibrate.variant)
    shares: TrueShares = {}
    for a, alpha in enumerate(swept.alphas):
        coverage = float(true.coverage.value[a])
        for r, rule in enumerate(rules):
            precision, keep_rate = float(true.precision.value[a, r]), float(true.keep_rate.value[a, r])
            shares[alpha, rule] = {"coverage": coverage, "precision": precision, "keep_rate": keep_rate}
        raw = float(true.raw.precision.value)
        shares[alpha, "raw"] = {"coverage": coverage, "precision": raw, "keep_rate": 1.0}
    return shares


def choices(settings: Settings, true: TrueShares) -> Iterator[str]:
    """A line of the table for every target, by the estimate and by the lower end of its interval."""
    for target in TARGETS:
        for end in ("value", "low"):
            facts = choose_alpha(settings, Goal("precision", target, end))  # type: ignore[arg-type]
            claim = facts["chosen"]
            real = true[claim["alpha"], claim["rule"]]
            words = [
                f"{target:.0%}{', cautious' if end == 'low' else ''}{'' if facts['is_reached'] else ' (not reached)'}",
                f"{claim['rule']} at {claim['alpha']:g}",
                "{value:.1%} [{low:.1%}, {high:.1%}]".format(**claim["precision"]),
                f"{real['precision']:.1%}",
                f"{claim['keep_rate']['value']:.1%}",
                f"{real['keep_rate']:.1%}",
            ]
            yield f"| {' | '.join(words)} |"


def verdict(swept: Sweep, true: TrueShares) -> Iterator[str]:
    """How many intervals hold the true share, and the largest error."""
    for metric in METRICS:
        pairs = [(row[metric], true[row["alpha"], row["rule"]]) for row in swept.rows]
        known = [(claim, real[metric]) for claim, real in pairs if claim and not np.isnan(real[metric])]
        held = sum(claim["low"] <= real <= claim["high"] for claim, real in known)
        errors = np.array([claim["value"] - real for claim, real in known])
        yield (
            f"| {metric.replace('_', ' ')} | {held} of {len(known)} ({held / len(known):.0%}) "
            f"| {100 * errors.mean():+.1f}, {100 * errors[np.abs(errors).argmax()]:+.1f} points |"
        )


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override one setting.")
def main(run: str, overrides: tuple[str, ...]) -> None:
    """Print what is chosen for some target precisions, and how often the intervals hold."""
    settings = load_settings(run, parse_overrides(overrides))
    swept = sweep_run(settings)
    true = true_shares(settings, swept)
    click.echo("| target | chosen | precision claimed | true | keep rate claimed | true |\n|---|---|---|---|---|---|")
    for line in choices(settings, true):
        click.echo(line)
    click.echo("\n| share | interval holds the true share | claimed minus true: mean, largest |\n|---|---|---|")
    for line in verdict(swept, true):
        click.echo(line)


if __name__ == "__main__":
    main()

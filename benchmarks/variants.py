"""Compares held-out estimates of the calibration with the true values on the unlabeled images.

For every variant, alpha and rule on one data set: coverage, precision and keep rate as claimed (cross-fitting on the
labeled images, with 95 % bootstrap intervals over images) and as measured on the unlabeled images, whose masks are
opened here and nowhere else. The run must be annotated:

    conformalsam prepare camvid --set data.root=FOLDER
    conformalsam annotate camvid --set data.root=FOLDER
    python benchmarks/variants.py camvid --set data.root=FOLDER
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

import calib
from pipeline.calibration.folds import candidate_rules
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import load_samples, read_mask, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.run_file import full_names, load_settings
from pipeline.settings import ComputeSettings, Settings
from pipeline.sources import truth_path
from pipeline.stages.calibrate import calibrate
from pipeline.store import DONE, Handle, open_calibration, open_probabilities

ALPHAS = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
RISK_ALPHAS = [0.03, 0.05, 0.08, 0.1]
VARIANTS: dict[str, dict[str, Any]] = {
    "pixel": {},
    "pixel, paper quantile": {"quantile": "paper"},
    "image": {"variant": "image"},
    "image, naive pooling": {"variant": "image", "pooling": "naive"},
    "k-means": {"variant": "kmeans"},
    "GenAnn": {"variant": "genann"},
    "image, one threshold per class": {"variant": "image", "class_thresholds": "each"},
    "image, clustered classes": {"variant": "image", "class_thresholds": "clustered"},
    "risk (wrong labels)": {"variant": "risk", "pseudolabel.rule": "argmax", "alpha": 0.03, "alphas": RISK_ALPHAS},
}
METRICS = ("coverage", "precision", "keep_rate")


class TruthJob(NamedTuple):
    """One unlabeled image, its mask, and one calibration store per variant."""

    probabilities: Handle
    index: int
    mask: Path
    settings: Settings
    calibrations: list[Path]


def judge_truth(job: TruthJob) -> list[calib.Judgement]:
    """The counts of one unlabeled image at the thresholds of each variant."""
    data, background = job.settings.data, job.settings.data.background_index
    maps = open_probabilities(job.probabilities).probabilities(job.index).rows(slice(None))
    truth = resize_nearest(read_mask(job.mask, data), data.grid)
    score, planes = calib.true_class_scores(maps, truth), calib.class_planes(maps, background)
    judged = []
    for path in job.calibrations:
        store = open_calibration(path)
        rules = candidate_rules(store.is_class_wise, store.state["variant"])
        thresholds = (store.q_hat(alpha) for alpha in store.alphas)
        judged.append(
            calib.judge_image(planes, score, truth, thresholds, rules, data.num_classes, background, "abstain", maps)
        )
    return judged


class Row(NamedTuple):
    """A variant with an alpha and a rule: claimed and true value of each of METRICS (value, low, high)."""

    variant: str
    alpha: float
    rule: str
    claimed: dict[str, Any]
    true: dict[str, dict[str, float]]


def variant_settings(run: str, overrides: dict[str, Any], variant: str) -> Settings:
    changes = {"rule": "paper", "alpha": ALPHAS[0], "alphas": ALPHAS, **VARIANTS[variant]}
    return load_settings(run, full_names(overrides) | full_names(changes))


def all_rows(run: str, overrides: dict[str, Any], scratch: Path) -> Iterator[Row]:
    """Calibrate every variant, and evaluate all of them on the unlabeled images in one pass."""
    settings = load_settings(run, overrides)
    claims, calibrations = {}, []
    for number, variant in enumerate(VARIANTS):
        changed = variant_settings(run, overrides, variant)
        facts = calibrate(changed)
        claims[variant] = facts["held_out"]["rows"]
        path = scratch / f"{number}.zarr"
        (changed.folder / "calibration.zarr").rename(path)
        calibrations.append(path)
    judged = judge_unlabeled(settings, calibrations)
    for number, variant in enumerate(VARIANTS):
        true = calib.summarise([image[number] for image in judged], np.random.default_rng(0))
        store = open_calibration(calibrations[number])
        rules = candidate_rules(store.is_class_wise, store.state["variant"])
        for row in claims[variant]:
            a, r = store.alphas.index(row["alpha"]), rules.index(row["rule"])
            estimates = (true.coverage, true.precision, true.keep_rate)
            true_values = {
                name: {end: float(values[index]) for end, values in estimate._asdict().items()}
                for name, estimate, index in zip(METRICS, estimates, ((a,), (a, r), (a, r)), strict=True)
            }
            yield Row(variant, row["alpha"], row["rule"], {name: row[name] for name in METRICS}, true_values)


def judge_unlabeled(settings: Settings, calibrations: list[Path]) -> list[list[calib.Judgement]]:
    path = (settings.folder / "probs.zarr").absolute()
    store = open_probabilities(path)
    index_of = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    is_done, jobs = store.status == DONE, []
    for sample in load_samples(settings.folder / "samples.json").of("unlabeled"):
        mask = truth_path(sample, settings.data)
        if mask is not None and is_done[index_of[sample.id]]:
            jobs.append(TruthJob(store.handle, index_of[sample.id], mask.absolute(), settings, calibrations))
    judged: list[list[calib.Judgement]] = []
    run_tasks(judge_truth, jobs, ComputeSettings(), judged.append)
    return judged


def holds(row: Row, metric: str) -> bool | None:
    """Whether the interval contains the true value; None without labels."""
    claim, true = row.claimed[metric], row.true[metric]["value"]
    return None if claim is None or np.isnan(true) else claim["low"] <= true <= claim["high"]


def differs_by_chance(row: Row, metric: str) -> bool:
    """Whether the difference is within the intervals of both, because the unlabeled images are a sample too."""
    claim, true = row.claimed[metric], row.true[metric]
    if claim["value"] > true["value"]:
        margin = np.hypot(claim["value"] - claim["low"], true["high"] - true["value"])
    else:
        margin = np.hypot(claim["high"] - claim["value"], true["value"] - true["low"])
    return bool(abs(claim["value"] - true["value"]) <= margin)


def estimate_text(row: Row, metric: str) -> str:
    """`92.1 [90.4, 93.5] 91.8`, with a star if the interval does not contain the true value."""
    claim, true = row.claimed[metric], row.true[metric]["value"]
    if claim is None:
        return "–"
    value, low, high = (100 * claim[end] for end in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}] {100 * true:.1f}{'' if holds(row, metric) else ' *'}"


def print_table(rows: Sequence[Row]) -> None:
    click.echo(
        "\n| variant | alpha | rule | coverage: claimed, true | precision: claimed, true | keep rate: claimed, true |"
    )
    click.echo("|---|---|---|---|---|---|")
    for row in rows:
        cells = " | ".join(estimate_text(row, metric) for metric in METRICS)
        click.echo(f"| {row.variant} | {row.alpha:g} | {row.rule} | {cells} |")


def print_verdict(rows: Sequence[Row]) -> None:
    """How many intervals contain the true value, for one threshold for all classes and for class-wise thresholds."""
    click.echo(
        "\n| thresholds | estimate | rows | interval contains the true value | difference within both intervals "
        "| claimed minus true: mean, largest |"
    )
    click.echo("|---|---|---|---|---|---|")
    for name, is_class_wise in (("one for all classes", False), ("class-wise", True)):
        for metric in METRICS:
            labeled = [
                row for row in rows if holds(row, metric) is not None and ("class" in row.variant) == is_class_wise
            ]
            held, chance = (sum(bool(test(row, metric)) for row in labeled) for test in (holds, differs_by_chance))
            errors = np.array([row.claimed[metric]["value"] - row.true[metric]["value"] for row in labeled])
            click.echo(
                f"| {name} | {metric.replace('_', ' ')} | {len(labeled)} | {held} ({held / len(labeled):.0%}) "
                f"| {chance} ({chance / len(labeled):.0%}) "
                f"| {100 * errors.mean():+.1f}, {100 * errors[np.abs(errors).argmax()]:+.1f} points |"
            )


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Settings, as for the stages.")
def main(run: str, overrides: Sequence[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = load_settings(run, parse_overrides(overrides))
    with tempfile.TemporaryDirectory(dir=settings.folder) as scratch:
        rows = list(all_rows(run, parse_overrides(overrides), Path(scratch)))
    click.echo("Percent; claimed: value [95 % interval]; * the interval does not contain the true value.")
    print_table(rows)
    print_verdict(rows)


if __name__ == "__main__":
    main()

"""Tests whether the criterion that chooses labels predicts their quality, by rank correlations over all candidates.

Criteria are computed from held-out labeled images alone (the receipt of calibrate). They should predict two measures:
the true mIoU of the labels on the unlabeled images, whose masks nothing else opens; and the mIoU on the val images of
small students that are trained on these labels (decoders on the features of a frozen encoder, as in `conformalsam
probe`). The run must be calibrated for rule auto, with the masks of its unlabeled images on disk:

    python benchmarks/objective.py voc_animals --set data.root=FOLDER

`--grid` trains a student for every variant and alpha of Eq. 4 instead: the paper's Table 6, with a frozen encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import click
import numpy as np
from scipy.stats import spearmanr

import calib
from pipeline.calibration.folds import candidate_rules
from pipeline.datasets import IGNORE_INDEX, load_samples, read_mask, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.receipt import read_receipt
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.sources import truth_path
from pipeline.store import open_calibration
from train.measure.metrics import iou_of_areas, mean_over_classes
from train.probe.arms import NO_LABELS, RAW, Arm, Labels
from train.probe.planes import open_planes
from train.probe.probe import cross_fit

Key = tuple[str | None, float | None, str]  # variant, alpha, rule
Facts = Mapping[str, Any]


class Scored(NamedTuple):
    """A candidate: held-out criteria by name, and the true mIoU, precision and keep rate of its labels."""

    key: Key
    criteria: dict[str, float]
    miou: float
    precision: float
    keep_rate: float


def criteria_of(row: Facts, raw: Facts) -> dict[str, float]:
    """Criteria that a choice could maximise, from held-out images. row: of the candidate; raw: of the argmax"""
    precision, keep_rate = row["precision"]["value"], row["keep_rate"]["value"]
    classes = [one["value"] for one in row["precision_per_class"].values() if one is not None]
    same_keep = row["against_raw"]["same_keep"] if row.get("against_raw") else raw["precision"]
    return {
        "mIoU, abstained = missing": row["miou"]["value"],
        "precision (pixels)": precision,
        "precision (mean of classes)": float(np.mean(classes)),
        "precision above the argmax's at the same keep rate": precision - same_keep["value"],
        "precision x keep rate": precision * keep_rate,
    }


def true_counts(settings: Settings, variants: Sequence[str]) -> dict[str, calib.HeldOut]:
    """For each variant, the true values of all alphas and rules on the unlabeled images that have a mask."""
    index, planes = load_samples(settings.folder / "samples.json"), open_planes(settings)
    store, background = open_calibration(settings.folder / "calibration.zarr"), settings.data.background_index
    judged: dict[str, list[calib.Judgement]] = {variant: [] for variant in variants}
    for sample in planes.available(index.of("unlabeled")):
        path = truth_path(sample, settings.data)
        if path is None:
            continue
        truth, of_image = resize_nearest(read_mask(path, settings.data), settings.data.grid), planes.planes(sample)
        score = np.where(truth == IGNORE_INDEX, np.float32(np.nan), np.float32(0))  # coverage is not needed
        for variant in variants:
            thresholds = (store.q_hat(alpha, variant) for alpha in store.alphas)
            rules, num_classes = candidate_rules(False, variant), settings.data.num_classes
            judged[variant].append(
                calib.judge_image(of_image, score, truth, thresholds, rules, num_classes, background, "abstain")
            )
    return {variant: calib.summarise(counts, np.random.default_rng(0)) for variant, counts in judged.items()}


def scored_candidates(settings: Settings) -> list[Scored]:
    """All candidates of rule auto, the annotator's argmax first."""
    held_out = read_receipt(settings.folder / "calibrate.json", "calibrate")["held_out"]
    store, raw = open_calibration(settings.folder / "calibration.zarr"), held_out["raw"]
    true = true_counts(settings, list(dict.fromkeys(row["variant"] for row in held_out["rows"])))
    of_raw = next(iter(true.values())).raw
    scored = [
        Scored((None, None, "raw"), criteria_of(raw, raw), float(of_raw.miou.value), float(of_raw.precision.value), 1.0)
    ]
    for row in held_out["rows"]:
        if row["precision"] is None or row["miou"] is None:
            continue
        counts = true[row["variant"]]
        index = store.alphas.index(row["alpha"]), candidate_rules(False, row["variant"]).index(row["rule"])
        numbers = (float(estimate.value[index]) for estimate in (counts.miou, counts.precision, counts.keep_rate))
        scored.append(Scored((row["variant"], row["alpha"], row["rule"]), criteria_of(row, raw), *numbers))
    return scored


def spread(scored: Sequence[Scored], num: int) -> list[Scored]:
    """The annotator's argmax, and candidates evenly spaced in the order of their true mIoU, with the best and worst."""
    ordered = sorted(scored[1:], key=lambda one: -one.miou)
    numbers = np.linspace(0, len(ordered) - 1, num - 1).round().astype(int)
    return [scored[0], *(ordered[number] for number in dict.fromkeys(numbers.tolist()))]


def student_mious(settings: Settings, chosen: Sequence[Scored]) -> tuple[float, list[float]]:
    """mIoU on the val images of a student trained on the labeled images alone, and of one student per candidate."""
    students = cross_fit(settings, read_receipt(settings.folder / "calibrate.json", "calibrate")["fingerprint"])
    labels = [RAW if one.key[2] == "raw" else Labels("calibrated", *one.key) for one in chosen]
    val = students.index.of("val")
    students = replace(
        students,
        labeled=[*students.labeled, *val],
        fold=np.array(
            [-1] * len(students.labeled) + [0] * len(val)
        ),  # train on all labeled, evaluate on all val images
        arms=[Arm(NO_LABELS, 0.0), *(Arm(one, 1.0) for one in labels)],
        folder=settings.folder / "probe" / "val",
    )
    areas = students.judged().areas[:, students.fold == 0].sum(axis=1)
    mious = mean_over_classes(iou_of_areas(np.moveaxis(areas, 1, 0)), "skip").tolist()
    return mious[0], mious[1:]


def correlations(names: Sequence[str], scored: Sequence[Scored], quality: Sequence[float]) -> Iterator[str]:
    """For each criterion: rank correlation with the quality, its choice, and the quality of that and of the best."""
    for name in names:
        values = [one.criteria[name] for one in scored]
        choice = int(np.argmax(values))
        rho = spearmanr(values, quality).statistic
        cells = f"{100 * quality[choice]:.1f} | {100 * max(quality):.1f}"
        yield f"| {name} | {rho:+.2f} | {named(scored[choice].key)} | {cells} |"


def grid(scored: Sequence[Scored]) -> list[Scored]:
    """The candidates of Eq. 4, by variant and then by falling alpha, as in the paper's Table 6."""
    return [one for one in scored if one.key[2] == "paper"]


def named(key: Key) -> str:
    return "raw" if key[2] == "raw" else f"{key[0]} {key[1]:g} {key[2]}"


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override one setting.")
@click.option(
    "--students", type=click.IntRange(min=0), default=9, show_default=True, help="Candidates to train a student of."
)
@click.option("--steps", default=500, show_default=True, help="Of each student.")
@click.option("--grid", "is_grid", is_flag=True, help="Every variant and alpha of Eq. 4, and the raw argmax, instead.")
def main(run: str, overrides: tuple[str, ...], students: int, steps: int, is_grid: bool) -> None:
    """Print how well held-out criteria predict the quality of labels and of students."""
    settings = load_settings(run, {**parse_overrides(overrides), "probe.steps": steps})
    scored = scored_candidates(settings)
    head = "| criterion on held-out images | Spearman | its choice | mIoU of that | best mIoU |\n|---|---|---|---|---|"
    names = list(scored[0].criteria)
    click.echo(f"{settings.name}: {len(scored)} candidates, true mIoU of the labels on the unlabeled images\n\n{head}")
    for line in correlations(names, scored, [one.miou for one in scored]):
        click.echo(line)
    if not students:
        return
    chosen = [scored[0], *grid(scored)] if is_grid else spread(scored, students)
    alone, mious = student_mious(settings, chosen)
    note = f"mIoU of students after {steps} steps (labeled images alone {100 * alone:.1f})"
    click.echo(f"\n{len(chosen)} of them, {note}\n\n{head}")
    for line in correlations(names, chosen, mious):
        click.echo(line)
    click.echo(f"| (true mIoU of the labels) | {spearmanr([one.miou for one in chosen], mious).statistic:+.2f} | | | |")
    click.echo("\n| labels | held-out mIoU | true mIoU | precision, kept | student |\n|---|---|---|---|---|")
    for one, miou in zip(chosen, mious, strict=True):
        kept = f"{100 * one.precision:.1f}, {100 * one.keep_rate:.1f}"
        held_out = 100 * one.criteria[names[0]]
        click.echo(f"| {named(one.key)} | {held_out:.1f} | {100 * one.miou:.1f} | {kept} | {100 * miou:.1f} |")


if __name__ == "__main__":
    main()

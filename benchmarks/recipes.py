"""Training recipes side by side: every preset on one run's labels, several seeds, last and best mIoU on val.

    snakemake --cores 8 pseudolabel                     # the labels that all recipes share
    python benchmarks/recipes.py --run demo --seeds 3

The numbers of steps, and of points on the learning curve, are about the same for all recipes: one of a single stage
gets the steps of both. Each recipe and seed has a folder of its own beside the run's, and goes on where it was stopped.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import click

from pipeline import config
from pipeline.config import Settings

SHARED = ("samples.json", "labels.zarr", "pseudolabel.json")


class Recipe(NamedTuple):
    """What is trained: a preset with changes, and the rows of the table that its stages' students give."""

    preset: str
    rows: Mapping[str, str]  # stage -> name of the row
    overrides: Mapping[str, Any]


def recipes(settings: Settings, num_labeled: int, num_unlabeled: int) -> list[Recipe]:
    """The rows, with as many steps each as the run file gives to both stages."""
    steps_per_epoch = num_unlabeled // settings.stage2.batch_unlabeled
    first = settings.stage1.epochs * ((num_labeled + num_unlabeled) // settings.stage1.batch_size)
    steps = first + settings.stage2.epochs * steps_per_epoch
    labels_alone = round(steps / max(1, num_labeled // settings.stage1.batch_size))
    self_training = round(steps / steps_per_epoch)

    def validated_as_often(epochs: int) -> dict[str, int]:
        """`best` is the highest of some points: of many, it is higher."""
        return {"train.validate_every": max(1, round(settings.train.validate_every * epochs / settings.stage1.epochs))}

    return [
        Recipe(
            "label-only",
            {"stage1": "label-only"},
            {"stage1.epochs": labels_alone, "stage2.epochs": 0, **validated_as_often(labels_alone)},
        ),
        Recipe(
            "semi-baseline",
            {"stage2": "semi-baseline"},
            {"stage1.epochs": 0, "stage2.epochs": self_training, **validated_as_often(self_training)},
        ),
        Recipe("raw", {"stage1": "raw labels, Stage I", "stage2": "raw labels, both stages"}, {}),
        Recipe("paper", {"stage1": "calibrated, Stage I", "stage2": "calibrated, both stages: `paper`"}, {}),
        Recipe("plus", {"stage1": "calibrated, Stage I of `plus`", "stage2": "calibrated, both stages: `plus`"}, {}),
    ]


def run_folder(settings: Settings, recipe: Recipe, seed: int) -> Settings:
    """The settings of one run, whose folder links to what all recipes share."""
    renamed = settings.model_copy(update={"name": f"{settings.name}-{recipe.preset}-{seed}"})
    renamed.folder.mkdir(parents=True, exist_ok=True)
    for file in SHARED:
        link = renamed.folder / file
        link.unlink(missing_ok=True)
        link.symlink_to((settings.folder / file).resolve())
    return renamed


def measure(run: str, settings: Settings, recipe: Recipe, seed: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Train and evaluate one recipe with one seed, unless that is done; the students of evaluate.json."""
    own = run_folder(settings, recipe, seed)
    receipt = own.folder / "evaluate.json"
    if not receipt.is_file():
        changes = {**overrides, **recipe.overrides, "preset": recipe.preset, "seed": seed, "name": own.name}
        words = [word for name, value in changes.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        for stage in ("stage1", "stage2", "evaluate"):
            with (own.folder / f"{stage}.log").open("w") as log:
                command = [sys.executable, "-m", "train", stage, "--run", run, *words]
                subprocess.run(command, stderr=log, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    students: dict[str, Any] = json.loads(receipt.read_text())["students"]
    return students


def row(name: str, students: Sequence[Mapping[str, Any]]) -> str:
    """A line of the table: mean and standard deviation over the seeds, in percent."""
    last, best, accuracy = (
        [100 * value for value in values]
        for values in zip(*((s["miou"], s["best"]["miou"], s["pixel_accuracy"]) for s in students), strict=True)
    )
    return f"| {name} | {spread(last)} | {spread(best)} | {spread(accuracy)} |"


def spread(values: Sequence[float]) -> str:
    """`12.3 ± 0.4`; of a single value, `12.3`."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


@click.command()
@click.option("--run", default="demo", show_default=True, help="Run file; its stages up to pseudolabel must be done.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ...")
@click.option("--jobs", default=os.cpu_count(), show_default=True, help="Recipes at a time, a thread each.")
@click.option("--only", multiple=True, help="Presets. Default: all.")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override one setting.")
@click.option("--afresh", is_flag=True, help="Remove earlier results of these recipes first.")
def main(run: str, seeds: int, jobs: int, only: Sequence[str], overrides: Sequence[str], afresh: bool) -> None:
    """Print a table of recipes."""
    changes = config.parse_overrides(overrides) | {"train.threads": 1, "train.workers": 1}
    settings = config.load(run, changes)
    split = json.loads((settings.folder / "prepare.json").read_text())["num_samples"]
    chosen = [r for r in recipes(settings, split["labeled"], split["unlabeled"]) if not only or r.preset in only]
    cells = list(itertools.product(chosen, range(seeds)))
    if afresh:
        for recipe, seed in cells:
            shutil.rmtree(run_folder(settings, recipe, seed).folder)
    with ThreadPoolExecutor(jobs) as pool:
        students = list(pool.map(lambda cell: measure(run, settings, *cell, changes), cells))
    click.echo("| recipe | last mIoU | best mIoU | last pixel accuracy |\n|---|---|---|---|")
    for place, recipe in enumerate(chosen):
        own = students[place * seeds : (place + 1) * seeds]
        for stage, name in recipe.rows.items():
            click.echo(row(name, [seed[stage] for seed in own]))


if __name__ == "__main__":
    main()

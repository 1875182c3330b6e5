"""Compares guaranteed precisions with the true ones on images whose masks the tests did not use.

The labeled images of the run test the thresholds, as `calibrate` does with `pseudolabel.guarantee`; the masks of the
unlabeled images are opened here only. With --labeled, larger sets of labeled images are drawn from both, and the truth
is that of the others. The run must be annotated (`snakemake --cores 8 annotate --config run=camvid root=FOLDER`):

    python benchmarks/guarantee.py camvid --set data.root=FOLDER --labeled 120
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt

import calib
from calib.curves import LabelCurves, candidate_thresholds, curves_of, merge_curves
from calib.histogram import KEEP_NOTHING
from calib.interface import Block
from calib.precision import images_needed, is_pilot, largest_precision, log_capital, precise_threshold
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import load_samples, read_mask, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.sources import truth_path
from pipeline.store import DONE, Handle, open_probabilities

TARGETS = (0.9, 0.95, 0.97, 0.99)
ERROR = 0.05
NUM_DRAWS = 20  # sets of labeled images


class CurvesJob(NamedTuple):
    """One image with a mask."""

    probabilities: Handle
    number: int
    index: int
    mask: Path
    settings: Settings
    rule: str


def image_curves(job: CurvesJob) -> LabelCurves:
    """The labels of one image at every threshold."""
    data, background = job.settings.data, job.settings.data.background_index
    maps = open_probabilities(job.probabilities).probabilities(job.index).rows(slice(None))
    planes = calib.class_planes(maps, background)._asdict()
    truth = resize_nearest(read_mask(job.mask, data), data.grid)
    arrays = {"truth": truth, **{name: plane for name, plane in planes.items() if plane is not None}}
    block = Block(np.array([job.number]), {name: array[np.newaxis] for name, array in arrays.items()})
    return curves_of(job.rule, background, block)


def curves_of_run(settings: Settings, rule: str) -> tuple[LabelCurves, int]:
    """Curves of the labeled and then of the unlabeled images, and the number of labeled ones."""
    store = open_probabilities((settings.folder / "probs.zarr").absolute())
    index_of, is_done = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}, store.status == DONE
    index = load_samples(settings.folder / "samples.json")
    num_labeled, jobs = len(index.of("labeled")), []
    for number, sample in enumerate([*index.of("labeled"), *index.of("unlabeled")]):
        mask = Path(settings.data.root) / sample.mask if sample.mask else truth_path(sample, settings.data)
        if mask is not None and is_done[index_of[sample.id]]:
            jobs.append(CurvesJob(store.handle, number, index_of[sample.id], mask.absolute(), settings, rule))
    found: list[LabelCurves] = []
    run_tasks(image_curves, jobs, settings.compute, found.append)
    curves = found[0]
    for one in found[1:]:
        curves = merge_curves(curves, one)
    curves = curves.sorted()
    return curves, int(np.count_nonzero(curves.images < num_labeled))


class Outcome(NamedTuple):
    """A guaranteed threshold, and the fractions of the other images' pixels that it labels, and labels wrong."""

    threshold: float
    kept: float
    wrong: float


def outcome(curves: LabelCurves, labeled: npt.NDArray[np.bool_], alpha: float) -> Outcome | None:
    """What the labeled images show, and the truth of the others; None if they do not show the precision."""
    tested = curves.of(labeled)
    q = precise_threshold(log_capital(tested, is_pilot(len(tested.images)), alpha), ERROR)
    if q == KEEP_NOTHING:
        return None
    t = int(np.searchsorted(candidate_thresholds(), q))
    return Outcome(float(q), float(curves.kept[~labeled, t].mean()), float(curves.wrong[~labeled, t].mean()))


def rows(curves: LabelCurves, num_labeled: int, sizes: tuple[int, ...], rule: str) -> Iterator[str]:
    """A table row for each target: for the labeled images of the run, and for drawn sets of other sizes."""
    for target in TARGETS:
        alpha = round(1 - target, 6)
        own = np.arange(len(curves.images)) < num_labeled
        found = outcome(curves, own, alpha)
        if found is None:
            shown, rng = curves.of(own), np.random.default_rng(0)
            best, needed = largest_precision(shown, alpha, ERROR), images_needed(shown, alpha, ERROR, rng)
            yield f"| {rule} | {target:.0%} | {num_labeled} | refused: shows {best}, would need {needed} | | |"
        else:
            precision = 1 - found.wrong / found.kept
            cells = f"{found.threshold:.3f} | {precision:.1%} | {found.kept:.1%}"
            yield f"| {rule} | {target:.0%} | {num_labeled} | {cells} |"
        for size in sizes:
            yield _drawn(curves, size, target, rule)


def _drawn(curves: LabelCurves, size: int, target: float, rule: str) -> str:
    """How often random sets of labeled images show a precision, and how precise their labels are."""
    rng, found = np.random.default_rng(size), []
    for _ in range(NUM_DRAWS):
        labeled = np.zeros(len(curves.images), np.bool_)
        labeled[rng.choice(len(labeled), size, replace=False)] = True
        found.append(outcome(curves, labeled, round(1 - target, 6)))
    shown = [one for one in found if one is not None]
    if not shown:
        return f"| {rule} | {target:.0%} | {size} | shown 0 of {NUM_DRAWS} | | |"
    precisions = np.array([1 - one.wrong / one.kept for one in shown])
    num_below, kept = int((precisions < target).sum()), np.mean([one.kept for one in shown])
    return (
        f"| {rule} | {target:.0%} | {size} | shown {len(shown)} of {NUM_DRAWS} | {precisions.mean():.1%}, least "
        f"{precisions.min():.1%}, below {num_below} | {kept:.1%} |"
    )


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override one setting.")
@click.option("--labeled", "sizes", multiple=True, type=int, help="Number of labeled images to draw.")
@click.option("--rule", default="argmax", help="Labeling rule.")
def main(run: str, overrides: tuple[str, ...], sizes: tuple[int, ...], rule: str) -> None:
    """Print what the labeled images show for some target precisions, and the truth on the other images."""
    curves, num_labeled = curves_of_run(load_settings(run, parse_overrides(overrides)), rule)
    click.echo(
        "| rule | target | labeled images | threshold | true precision | true keep rate |\n|---|---|---|---|---|---|"
    )
    for line in rows(curves, num_labeled, sizes, rule):
        click.echo(line)


if __name__ == "__main__":
    main()

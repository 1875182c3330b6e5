"""What intervals and guarantees are worth on new videos, if they count images, blocks of frames, or videos.

Each group of one expression (e.g. a video) is left out in turn. The labeled images of the others are calibrated, at
every STEPth row and column of benchmarks/shift.py, and their held-out estimates and guarantees are compared with the
truth on all images that were left out. The units of the folds, the intervals and the guarantee are the images or, to
compare, groups of further expressions. The run must be annotated, with the masks of its unlabeled images on disk:

    python benchmarks/groups.py camvid --set data.root=FOLDER --leave-out '^[^_]+' --units '^(.+)[0-9]{3}$'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt
from shift import Images, load

import calib
from calib.curves import LabelCurves, candidate_thresholds, curves_of
from calib.histogram import KEEP_NOTHING
from calib.interface import Block
from calib.precision import is_pilot, log_capital, precise_threshold
from pipeline.calibration.folds import num_folds, variant_of
from pipeline.overrides import parse_overrides
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings

ALPHAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
RULES = ("paper", "singleton", "argmax")
METRICS = ("coverage", "precision", "keep_rate")
TARGETS = (0.85, 0.9, 0.95)
ERROR = 0.05


class Row(NamedTuple):
    """Intervals of an estimate that contain the true value, their number, and their mean width."""

    held: int
    num: int
    width: float


def planes_of(images: Images, i: int) -> calib.Planes:
    return calib.Planes(*(None if plane is None else plane[i] for plane in images.planes))  # type: ignore[arg-type]


def judged(
    settings: Settings, images: Images, chosen: npt.NDArray[np.intp], fits: Sequence[calib.Thresholds]
) -> list[calib.Judgement]:
    """Judgements of some images, each by its own thresholds."""
    data = settings.data
    return [
        calib.judge_image(
            planes_of(images, i),
            images.score[i],
            images.truth[i],
            [fit.map(a) for a in range(len(ALPHAS))],
            RULES,
            data.num_classes,
            data.background_index,
            "abstain",
        )
        for i, fit in zip(chosen.tolist(), fits, strict=True)
    ]


def compare(
    settings: Settings,
    images: Images,
    labeled: npt.NDArray[np.intp],
    new: npt.NDArray[np.intp],
    units: npt.NDArray[np.int64],
) -> list[Row]:
    """For each of METRICS, the intervals from the labeled images against the truth on the new ones."""
    fold = calib.assign_folds(units, num_folds(calib.num_units(units), settings.calibrate))
    maps = calib.ArrayMaps({"score": images.score[labeled], "truth": images.truth[labeled]})
    whole, *others = (fit.resolve("abstain") for fit in calib.fit(variant_of(settings, ALPHAS), maps, fold))
    claimed = calib.summarise(
        judged(settings, images, labeled, [others[f] for f in fold]), np.random.default_rng(0), units
    )
    true = calib.summarise(judged(settings, images, new, [whole] * len(new)), np.random.default_rng(0))
    rows = []
    for metric in METRICS:
        claim, real = getattr(claimed, metric), getattr(true, metric).value
        is_defined = ~np.isnan(claim.value) & ~np.isnan(real)
        held = (claim.low <= real) & (real <= claim.high) & is_defined
        rows.append(Row(int(held.sum()), int(is_defined.sum()), float((claim.high - claim.low)[is_defined].mean())))
    return rows


def all_curves(settings: Settings, images: Images) -> LabelCurves:
    """The labels of all images at every threshold, by the rule argmax."""
    planes = {name: plane for name, plane in images.planes._asdict().items() if plane is not None}
    block = Block(np.arange(len(images.truth)), {"truth": images.truth, **planes})
    return curves_of("argmax", settings.data.background_index, block).sorted()


def guaranteed(
    curves: LabelCurves,
    labeled: npt.NDArray[np.intp],
    new: npt.NDArray[np.intp],
    units: npt.NDArray[np.int64],
    target: float,
) -> str:
    """The true precision on the new images of labels with a guarantee, or `refused`."""
    unit_of_image = np.full(int(curves.images.max()) + 1, -1)
    unit_of_image[labeled] = units
    tested = curves.of(labeled).by_unit(unit_of_image)
    alpha = round(1 - target, 6)
    q = precise_threshold(log_capital(tested, is_pilot(len(tested.images)), alpha), ERROR)
    if q == KEEP_NOTHING:
        return "refused"
    t = int(np.searchsorted(candidate_thresholds(), q))
    kept, wrong = curves.kept[new, t].mean(), curves.wrong[new, t].mean()
    return f"{100 * (1 - wrong / kept):.1f}, keeps {100 * kept:.1f}"


def groups_of(pattern: str | None, ids: Sequence[str]) -> list[str]:
    """The group of each id, as `data.groups` finds it; None: the id."""
    if pattern is None:
        return list(ids)
    expression = re.compile(pattern)
    found = [expression.search(one) for one in ids]
    return [match[1 if expression.groups else 0] if match else "" for match in found]


def interval_lines(
    settings: Settings,
    images: Images,
    ids: Sequence[str],
    num_labeled: int,
    leave_out: str,
    patterns: Sequence[str | None],
) -> Iterator[str]:
    """A table row for each left-out group and each kind of units."""
    left_out = np.array(groups_of(leave_out, ids))
    for group in dict.fromkeys(left_out.tolist()):
        labeled = np.flatnonzero((left_out != group)[:num_labeled])
        new = np.flatnonzero(left_out == group)
        for pattern in patterns:
            units = calib.number_units([groups_of(pattern, ids)[i] for i in labeled])
            head = f"| {group} ({len(new)}) | {pattern or 'images'} | {len(labeled)} in {calib.num_units(units)}"
            cells = (
                f"{row.held} of {row.num}, {100 * row.width:.1f}"
                for row in compare(settings, images, labeled, new, units)
            )
            yield f"{head} | {' | '.join(cells)} |"


def guarantee_lines(
    settings: Settings, images: Images, ids: Sequence[str], leave_out: str, patterns: Sequence[str | None]
) -> Iterator[str]:
    """The same for guarantees, if all images of the other groups are labeled."""
    left_out, curves = np.array(groups_of(leave_out, ids)), all_curves(settings, images)
    for group in dict.fromkeys(left_out.tolist()):
        labeled, new = np.flatnonzero(left_out != group), np.flatnonzero(left_out == group)
        for pattern in patterns:
            units = calib.number_units([groups_of(pattern, ids)[i] for i in labeled])
            head = f"| {group} ({len(new)}) | {pattern or 'images'} | {len(labeled)} in {calib.num_units(units)}"
            cells = (guaranteed(curves, labeled, new, units, target) for target in TARGETS)
            yield f"{head} | {' | '.join(cells)} |"


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a setting of the run.")
@click.option("--leave-out", required=True, metavar="REGEX", help="Groups that are left out in turn.")
@click.option("--units", "patterns", multiple=True, metavar="REGEX", help="Units to compare with the images.")
@click.option("--variant", default="image", help="Variant of the thresholds.")
def main(run: str, overrides: tuple[str, ...], leave_out: str, patterns: tuple[str, ...], variant: str) -> None:
    """Print how often intervals contain the truth on left-out groups, and what guarantees are worth there."""
    settings = load_settings(run, parse_overrides(overrides)).of_variant(variant)
    images, num_labeled = load(settings)
    ids = [sample.id for sample in Run(settings).samples().of("labeled", "unlabeled")]
    units = (None, *patterns)
    names = " | ".join(
        f"{metric.replace('_', ' ')}: intervals that contain the truth, mean width" for metric in METRICS
    )
    print(f"| left out (images) | units | labeled images | {names} |\n|---|---|---|---|---|---|")
    for line in interval_lines(settings, images, ids, num_labeled, leave_out, units):
        print(line, flush=True)
    targets = " | ".join(f"{target:.0%} guaranteed: true precision" for target in TARGETS)
    print(f"\n| left out (images) | units | labeled images | {targets} |\n|---|---|---|---|---|---|")
    for line in guarantee_lines(settings, images, ids, leave_out, units):
        print(line, flush=True)


if __name__ == "__main__":
    main()

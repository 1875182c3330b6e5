"""Compares thresholds from few labeled images: of locations that borrow from others, and of classes that do.

Some of the images with masks are drawn as labeled images, thresholds are computed from them, and the labels of 60 other
images are judged by their masks, which are opened here and nowhere else. Means over several draws. The run must be
annotated:

    conformalsam prepare voc_animals --set data.root=FOLDER
    conformalsam annotate voc_animals --set data.root=FOLDER
    python benchmarks/few_images.py voc_animals --set data.root=FOLDER
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

import calib
from calib.regions import one_region
from pipeline.calibration.folds import variant_of
from pipeline.datasets import load_samples, read_mask, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.progress import Progress
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.sources import truth_path
from pipeline.store import DONE, open_probabilities

log = logging.getLogger(__name__)

STEP = 2  # every second row and column of the grid is used
NUM_TEST = 60
ALPHAS = (0.1, 0.15, 0.2, 0.3)
NEIGHBOURS = {
    "pixel": {"name": "pixel"},
    "kernel 1/8": {"name": "kernel", "bandwidth": 1 / 8},
    "kernel 1/4": {"name": "kernel", "bandwidth": 1 / 4},
    "kernel 1/2": {"name": "kernel", "bandwidth": 1 / 2},
    "image": {"name": "image"},
}
PAS = "PAS"
CLASS_ALPHAS = (0.05, 0.1, 0.2)
SHRINKAGES = (5, 10, 20, 40, 80)
CLASSES = {
    "pooled": {"name": "image"},
    "each": {"name": "image", "classes": "each"},
    **{f"partial {m}": {"name": "image", "classes": "partial", "class_shrinkage": m} for m in SHRINKAGES},
    "clustered": {"name": "image", "classes": "clustered"},
    PAS: {"name": "image"},
}

Floats = npt.NDArray[np.float64]


class Images(NamedTuple):
    """Images with masks, on the grid, each STEP apart.

    probabilities: float32 [N, K, H, W]
    truth:         uint8 [N, H, W]
    score:         float32 [N, H, W]
    planes:        of each image
    """

    probabilities: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    score: npt.NDArray[np.float32]
    planes: list[calib.Planes]

    def labeled(self, images: npt.NDArray[np.integer]) -> calib.ArrayMaps:
        return calib.ArrayMaps({"score": self.score[images], "truth": self.truth[images]})


def read_images(settings: Settings) -> Images:
    """All images of the run with maps and a mask."""
    store = open_probabilities((settings.folder / "probs.zarr").absolute())
    index_of = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    samples, is_done = load_samples(settings.folder / "samples.json"), store.status == DONE
    maps, masks = [], []
    for sample in (*samples.of("labeled"), *samples.of("unlabeled")):
        mask = truth_path(sample, settings.data)
        if mask is not None and is_done[index_of[sample.id]]:
            whole = store.probabilities(index_of[sample.id]).rows(slice(None))
            maps.append(whole[:, ::STEP, ::STEP].astype(np.float32))
            masks.append(resize_nearest(read_mask(mask, settings.data), settings.data.grid)[::STEP, ::STEP])
    scores = [calib.true_class_scores(*pair) for pair in zip(maps, masks, strict=True)]
    planes = [calib.class_planes(image, settings.data.background_index) for image in maps]
    return Images(np.stack(maps), np.stack(masks), np.stack(scores), planes)


class Counts(NamedTuple):
    """Sums over the test images: covered pixels and pixels by true class, labels and right ones by label, [K] each.

    edges: neighbouring pixels, the right one below or beside, whose labels differ only because their thresholds do
    pairs: neighbouring pixels
    """

    covered: Floats
    valid: Floats
    kept: Floats
    right: Floats
    edges: float
    pairs: float


class Quality(NamedTuple):
    """Percent; edges: per thousand pairs."""

    macro_coverage: float
    worst_coverage: float
    precision: float
    miou: float
    keep_rate: float
    edges: float


def quality(counts: Counts) -> Quality:
    has_pixels = counts.valid > 0
    coverage = counts.covered[has_pixels] / counts.valid[has_pixels]
    iou = counts.right[has_pixels] / (counts.kept + counts.valid - counts.right)[has_pixels]
    kept = counts.kept.sum()
    precision = counts.right.sum() / kept if kept else np.nan
    fractions = coverage.mean(), coverage.min(), precision, iou.mean(), kept / counts.valid.sum()
    return Quality(*(100 * fraction for fraction in fractions), 1000 * counts.edges / max(counts.pairs, 1))


def judge(
    images: Images, test: npt.NDArray[np.integer], q: npt.NDArray[np.float32], rule: str, background: int | None
) -> Counts:
    """Judge the labels of the test images. q: float32 [H, W], or [K, H, W] class-wise"""
    num_classes = images.probabilities.shape[1]
    totals = np.zeros((4, num_classes))
    edges = pairs = 0.0
    for i in test:
        label = _labels(images, i, q, rule, background)
        valid = ~np.isnan(images.score[i])
        truth = images.truth[i][valid]
        own = np.take_along_axis(q, images.truth[i][None] % num_classes, axis=0)[0] if q.ndim == 3 else q
        covered = (images.score[i] <= np.where(np.isfinite(own), own, np.inf))[valid]
        kept = label[valid][~np.isnan(label[valid])].astype(np.intp)
        right = truth[label[valid] == truth]
        for total, classes in zip(totals, (truth[covered], truth, kept, right), strict=True):
            total += np.bincount(classes, minlength=num_classes)
        if q.ndim == 2:
            for axis in (0, 1):
                moved = _labels(images, i, np.roll(q, 1, axis=axis), rule, background)  # threshold of the pixel before
                here, there, before = (_without_first(x, axis) for x in (label, moved, np.roll(label, 1, axis=axis)))
                edges += np.count_nonzero(~_same(here, before) & _same(there, before))
                pairs += here.size
    return Counts(*totals, edges, pairs)


def _labels(
    images: Images, i: int, q: npt.NDArray[np.float32], rule: str, background: int | None
) -> npt.NDArray[np.float32]:
    if q.ndim == 2:
        return calib.label_pixels(images.planes[i], q, rule, background, "abstain")
    sets = calib.class_wise_sets(images.probabilities[i], q, background, "abstain")
    return calib.label_class_wise(sets, images.planes[i], rule, background, "abstain")


def _without_first(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    return values[1:] if axis == 0 else values[:, 1:]


def _same(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return (first == second) | (np.isnan(first) & np.isnan(second))


def prevalence_adjusted(images: Images, labeled: npt.NDArray[np.integer], variant: calib.Variant) -> calib.Thresholds:
    """Thresholds of PAS: a class is in the set if P / prior is large enough, that is, if 1 - P <= 1 - t prior.

    PAS is the score of Ding, Fermanian and Salmon 2025 (arXiv 2507.06867); t has the rank of variant image.
    """
    truth, score = images.truth[labeled], images.score[labeled]
    prior = np.bincount(truth[~np.isnan(score)], minlength=variant.num_classes) / np.count_nonzero(~np.isnan(score))
    ratio = (1 - score) / np.maximum(prior[truth % variant.num_classes], 1e-6)
    largest = np.nanmax(ratio)
    maps = calib.ArrayMaps({"score": (1 - ratio / largest).astype(np.float32), "truth": truth})
    (whole,) = calib.fit(calib.Variant("image", variant.alphas), maps, np.zeros(len(labeled), np.int64))
    q = np.clip(1 - (1 - whole.q) * largest * prior[:, None], 0, 1)
    return calib.Thresholds(
        one_region(images.truth.shape[1:]),
        np.where(np.isfinite(whole.q), q, np.inf).astype(np.float32),
        np.repeat(whole.num_images, variant.num_classes, axis=0),
        np.ones((variant.num_classes, 1), np.float32),
    )


class Plan(NamedTuple):
    """What is compared: named methods with their changes of `calib.Variant`, at some alphas and rules."""

    methods: Mapping[str, Mapping[str, Any]]
    alphas: tuple[float, ...]
    rules: tuple[str, ...]


Key = tuple[int, str, float, str]
"""Number of labeled images, method, alpha, rule."""


def measure(settings: Settings, images: Images, plan: Plan, sizes: Sequence[int], draws: int) -> dict[Key, Quality]:
    """Means over the draws."""
    background = settings.data.background_index
    base = variant_of(settings, plan.alphas)
    results: defaultdict[Key, list[Quality]] = defaultdict(list)
    progress = Progress(log, "draws", len(sizes) * draws, "draws")
    for n in sizes:
        rng = np.random.default_rng(0)
        for _ in range(draws):
            order = rng.permutation(len(images.truth))
            labeled, test = order[:n], order[n : n + NUM_TEST]
            for method, changes in plan.methods.items():
                variant = replace(base, **changes)
                if method == PAS:
                    fitted = prevalence_adjusted(images, labeled, variant)
                else:
                    (fitted,) = calib.fit(variant, images.labeled(labeled), np.zeros(n, np.int64))
                for a, alpha in enumerate(plan.alphas):
                    for rule in plan.rules:
                        counts = judge(images, test, fitted.map(a), rule, background)
                        results[n, method, alpha, rule].append(quality(counts))
            progress.advance()
    return {key: Quality(*np.mean(qualities, axis=0)) for key, qualities in results.items()}


def neighbour_table(results: Mapping[Key, Quality]) -> Iterator[str]:
    """A row for each number of images, alpha and rule: precision, mIoU and keep rate of each method, and edges."""
    yield f"| labeled images | alpha | rule | {' | '.join(NEIGHBOURS)} |"
    yield "|---" * (3 + len(NEIGHBOURS)) + "|"
    for n, alpha, rule in dict.fromkeys((n, alpha, rule) for n, _, alpha, rule in results):
        cells = []
        for method in NEIGHBOURS:
            one = results[n, method, alpha, rule]
            cells.append(f"{one.precision:.1f}, {one.miou:.1f}, {one.keep_rate:.1f}; {one.edges:.1f}")
        yield f"| {n} | {alpha:g} | {rule} | {' | '.join(cells)} |"


def class_table(results: Mapping[Key, Quality], rules: Sequence[str]) -> Iterator[str]:
    """A row for each number of images, alpha and method: coverage, and the quality of the labels by each rule."""
    yield f"| labeled images | alpha | thresholds | coverage: mean, worst class | {' | '.join(rules)} |"
    yield "|---" * (4 + len(rules)) + "|"
    for n, alpha, method in dict.fromkeys((n, alpha, method) for n, method, alpha, _ in results):
        by_rule = [results[n, method, alpha, rule] for rule in rules]
        coverage = f"{by_rule[0].macro_coverage:.1f}, {by_rule[0].worst_coverage:.1f}"
        cells = (f"{one.precision:.1f}, {one.miou:.1f}, {one.keep_rate:.1f}" for one in by_rule)
        yield f"| {n} | {alpha:g} | {method} | {coverage} | {' | '.join(cells)} |"


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Settings, as for the stages.")
@click.option("--sizes", default="8,16,32,60", show_default=True, help="Numbers of labeled images.")
@click.option("--draws", default=4, show_default=True, help="Random choices of the labeled images.")
@click.option("--what", type=click.Choice(["neighbours", "classes"]), default="neighbours", show_default=True)
def main(run: str, overrides: Sequence[str], sizes: str, draws: int, what: str) -> None:
    """Print precision, mIoU and keep rate of the labels, in percent (a pixel without a label counts as missed).

    With neighbours, after the semicolon: of a thousand pairs of neighbouring pixels, those whose labels differ only
    because their thresholds do.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = load_settings(run, parse_overrides(overrides))
    images, numbers = read_images(settings), [int(size) for size in sizes.split(",")]
    rules = ("paper", "singleton") if settings.data.background else ("argmax", "singleton")
    if what == "neighbours":
        lines = neighbour_table(measure(settings, images, Plan(NEIGHBOURS, ALPHAS, rules), numbers, draws))
    else:
        rules = (*rules[:1], "argmax") if settings.data.background else ("paper", "argmax")
        lines = class_table(measure(settings, images, Plan(CLASSES, CLASS_ALPHAS, rules), numbers, draws), rules)
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()

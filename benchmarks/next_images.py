"""Compares labeled images that `conformalsam next` chooses with random ones: does the choice pay?

16 images are drawn as labeled. 16 more are chosen from the others, by `calib.selection`, at random, or those with the
lowest keep rates. Thresholds are computed from the 32 (`by 16`: from the first 16 only), and judged on 60 images that
no choice has seen: coverage, and precision, mIoU and keep rate of the labels. `pool` is the mIoU of the labels that a
student would get for the images that could be chosen: human masks where there are any, calibrated labels elsewhere.
Means over several draws, with the standard error of the difference to random images. The run must be annotated, as for
few_images.py:

    python benchmarks/next_images.py voc_animals --set data.root=FOLDER
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt
from few_images import Images, judge, quality, read_images

import calib
from calib import selection
from pipeline.calibration.folds import variant_of
from pipeline.datasets import load_samples
from pipeline.overrides import parse_overrides
from pipeline.progress import Progress
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.sources import truth_path

log = logging.getLogger(__name__)

NUM_FIRST = NUM_MORE = 16
NUM_TEST = 60
BY_FIRST = ", thresholds by 16"
ARMS = ("none", "random", "lowest keep rate", "largest gain", "next", f"random{BY_FIRST}", f"next{BY_FIRST}")
Index = npt.NDArray[np.int64]


class Measured(NamedTuple):
    """Percent. classes: number of classes that the labeled images show"""

    coverage: float
    precision: float
    miou: float
    keep_rate: float
    pool: float
    classes: float


def photographs(settings: Settings) -> list[npt.NDArray[np.uint8]]:
    """The photographs of the images that `read_images` reads, in its order."""
    index = load_samples(settings.folder / "samples.json")
    samples = [*index.of("labeled"), *index.of("unlabeled")]
    return [index.image(sample) for sample in samples if truth_path(sample, settings.data) is not None]


class Bench:
    """Images in memory, with what the choice reads of them."""

    def __init__(self, settings: Settings, alpha: float, rule: str):
        self.images: Images = read_images(settings)
        self.background, self.rule = settings.data.background_index, rule
        self.num_classes = settings.data.num_classes
        self.variant = variant_of(settings.of_variant("image"), [alpha])
        none = np.full(self.images.truth.shape[1:], np.nan, np.float32)
        pixels = [selection.count_doubt(none, p, self.background, self.num_classes).pixels for p in self.images.planes]
        pairs = [selection.features(photo, n) for photo, n in zip(photographs(settings), pixels, strict=True)]
        self.features = [np.stack(kind) for kind in zip(*pairs, strict=True)]

    def threshold(self, labeled: Index) -> npt.NDArray[np.float32]:
        (fitted,) = calib.fit(self.variant, self.images.labeled(labeled), np.zeros(len(labeled), np.int64))
        return fitted.map(0)

    def label(self, i: int, q: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return calib.label_pixels(self.images.planes[i], q, self.rule, self.background, "abstain")

    def choose(self, arm: str, first: Index, pool: Index, rng: np.random.Generator) -> Index:
        """The images that an arm labels, besides the first ones."""
        if arm == "none":
            return pool[:0]
        if arm == "random":
            return rng.choice(pool, NUM_MORE, replace=False)
        q = self.threshold(first)
        doubts = [
            selection.count_doubt(self.label(i, q), self.images.planes[i], self.background, self.num_classes)
            for i in pool
        ]
        if arm == "lowest keep rate":
            return pool[np.argsort([-doubt.unlabeled.sum() for doubt in doubts], kind="stable")[:NUM_MORE]]
        gain = selection.expected_gain(doubts)
        if arm == "largest gain":
            return pool[np.argsort(-gain, kind="stable")[:NUM_MORE]]
        kinds = [[kind[which] for kind in self.features] for which in (pool, first)]
        return pool[selection.choose_images(gain, *kinds, NUM_MORE).images]

    def measure(self, labeled: Index, calibrating: Index, pool: Index, test: Index) -> Measured:
        q = self.threshold(calibrating)
        counts = judge(self.images, test, q, self.rule, self.background)
        measured = quality(counts)
        coverage = 100 * counts.covered.sum() / counts.valid.sum()
        shown = len(np.setdiff1d(np.unique(self.images.truth[labeled]), [255]))
        return Measured(coverage, measured.precision, measured.miou, measured.keep_rate,
                        self.pool_miou(labeled, pool, q), shown)  # fmt: skip

    def pool_miou(self, labeled: Index, pool: Index, q: npt.NDArray[np.float32]) -> float:
        """mIoU over the images that could be chosen, where those that were have their masks as labels."""
        rest = judge(self.images, np.setdiff1d(pool, labeled), q, self.rule, self.background)
        known = self.images.truth[np.intersect1d(pool, labeled)]
        own = np.bincount(known[known < self.num_classes], minlength=self.num_classes)
        return quality(rest._replace(valid=rest.valid + own, kept=rest.kept + own, right=rest.right + own)).miou


def run_draws(bench: Bench, draws: int) -> Mapping[str, list[Measured]]:
    results: defaultdict[str, list[Measured]] = defaultdict(list)
    progress = Progress(log, "draws", draws, "draws")
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        order = rng.permutation(len(bench.images.truth))
        test, first, pool = np.split(order, [NUM_TEST, NUM_TEST + NUM_FIRST])
        for arm in ARMS:
            labeled = np.concatenate([first, bench.choose(arm.removesuffix(BY_FIRST), first, pool, rng)])
            calibrating = first if arm.endswith(BY_FIRST) else labeled
            results[arm].append(bench.measure(labeled, calibrating, pool, test))
        progress.advance()
    return results


def table(results: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Means, and in brackets the difference to random images with its standard error."""
    lines = [f"| 16 more images | {' | '.join(Measured._fields)} |", "|---" * (1 + len(Measured._fields)) + "|"]
    by_arm = {arm: np.array(rows) for arm, rows in results.items()}
    for arm, rows in by_arm.items():
        gap = rows - by_arm["random"]
        error = gap.std(axis=0, ddof=1) / np.sqrt(len(gap))
        cells = [
            f"{mean:.1f}" + ("" if arm in ("random", "none") else f" ({difference:+.1f} ± {spread:.1f})")
            for mean, difference, spread in zip(rows.mean(axis=0), gap.mean(axis=0), error, strict=True)
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Settings, as for the stages.")
@click.option("--draws", default=30, show_default=True, help="Random choices of the first images and the test images.")
@click.option("--alpha", default=0.1, show_default=True)
@click.option("--rule", default="argmax", show_default=True)
def main(run: str, overrides: Sequence[str], draws: int, alpha: float, rule: str) -> None:
    """Print how good the labels are with 16 more labeled images, by how these are chosen."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    bench = Bench(load_settings(run, parse_overrides(overrides)), alpha, rule)
    for line in table(run_draws(bench, draws)):
        click.echo(line)


if __name__ == "__main__":
    main()

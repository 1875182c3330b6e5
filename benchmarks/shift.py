"""How often a shift is warned of where there is none: random divisions of the images of a run.

The labeled and unlabeled images of a run are divided at random again and again, in the same numbers. Every division is
calibrated and labeled, at every STEPth row and column, and the labeled images are compared with the unlabeled ones as
`pseudolabel` does. Such images are exchangeable, so at most 5 % of the divisions should be warned of. The run must be
annotated, with the masks of its unlabeled images on disk:

    python benchmarks/shift.py voc_animals --set data.root=FOLDER
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt

import calib
from calib.shift import LEVEL
from pipeline.calibration.folds import num_folds, variant_of
from pipeline.calibration.shift import CONFIDENCE, FRACTIONS, KEEP_RATE
from pipeline.datasets import Sample, SampleIndex, read_mask, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.sources import truth_path

STEP = 4
VARIANTS = ("image", "pixel")


class Images(NamedTuple):
    """All N images: planes, scores and true classes [N, h, w], and what is observed of each."""

    planes: calib.Planes
    score: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    observed: calib.Observed

    def __getitem__(self, chosen: npt.NDArray[np.intp]) -> Images:  # type: ignore[override]
        planes = calib.Planes(*(None if plane is None else plane[chosen] for plane in self.planes))  # type: ignore[arg-type]
        observed = calib.Observed(*(values[chosen] for values in self.observed))
        return Images(planes, self.score[chosen], self.truth[chosen], observed)


def load(settings: Settings) -> tuple[Images, int]:
    """All images that have a mask, the labeled ones first, and the number of these."""
    run, data = Run(settings), settings.data
    index, store = run.samples(), run.open_probabilities()
    position = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    samples = index.of("labeled", "unlabeled")
    planes, scores, truths, observed = [], [], [], []
    for sample in samples:
        maps = np.ascontiguousarray(store.probabilities(position[sample.id]).rows(slice(None))[:, ::STEP, ::STEP])
        truths.append(np.ascontiguousarray(resize_nearest(mask_of(sample, index, settings), data.grid)[::STEP, ::STEP]))
        planes.append(calib.class_planes(maps, data.background_index))
        scores.append(calib.true_class_scores(maps, truths[-1]))
        observed.append(calib.observe(planes[-1], data.background_index, data.num_classes))
    stacked = (None if plane[0] is None else np.stack(plane) for plane in zip(*planes, strict=True))
    images = Images(
        calib.Planes(*stacked),  # type: ignore[arg-type]
        np.stack(scores),
        np.stack(truths),
        calib.Observed(*(np.stack(values) for values in zip(*observed, strict=True))),
    )
    return images, len(index.of("labeled"))


def mask_of(sample: Sample, index: SampleIndex, settings: Settings) -> npt.NDArray[np.uint8]:
    """The mask of a labeled or unlabeled image at its own size."""
    if sample.mask is not None:
        return index.mask(sample, settings.data)
    path = truth_path(sample, settings.data)
    if path is None:
        raise click.ClickException(f"{sample.id} has no mask; the benchmark needs those of all images")
    return read_mask(path, settings.data)


def keep_rates(settings: Settings, images: Images, labeled: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """float64 [N]: of a labeled image with thresholds from the other folds, of others with the final thresholds."""
    alpha, rule = settings.calibrate.alpha, "paper"
    fold = calib.assign_folds(calib.each_alone(len(labeled)), num_folds(len(labeled), settings.calibrate))
    score = images.score[labeled]
    maps = calib.ArrayMaps({"score": score, "truth": np.zeros(score.shape, np.uint8)})  # one threshold for all classes
    fits = calib.fit(variant_of(settings, [alpha]), maps, fold)
    thresholds = [fit.resolve("abstain").map(0) for fit in fits]
    own = np.zeros(len(images.score), np.intp)
    own[labeled] = 1 + fold
    kept = []
    for i, fit in enumerate(own):
        planes = calib.Planes(*(None if plane is None else plane[i] for plane in images.planes))  # type: ignore[arg-type]
        label = calib.label_pixels(planes, thresholds[fit], rule, settings.data.background_index, "abstain")
        kept.append(np.mean(~np.isnan(label)))
    return np.array(kept)


def tests_of(
    settings: Settings, images: Images, labeled: npt.NDArray[np.intp], rng: np.random.Generator
) -> Mapping[str, calib.Difference]:
    """The tests of a division of the images."""
    pixels = images.observed.pixels.sum(axis=1, keepdims=True)
    values = {
        KEEP_RATE: keep_rates(settings, images, labeled)[:, np.newaxis],
        CONFIDENCE: images.observed.probability.sum(axis=1, keepdims=True) / pixels,
        FRACTIONS: images.observed.pixels / pixels,
    }
    is_labeled = np.isin(np.arange(len(pixels)), labeled)
    first, second = ({name: of[part] for name, of in values.items()} for part in (is_labeled, ~is_labeled))
    return calib.compare(first, second, rng)


def row(name: str, tests: Sequence[Mapping[str, calib.Difference]]) -> str:
    """A line of the table: fractions of the divisions with a p-value of at most 5 %, and with a warning."""
    quantities = (KEEP_RATE, CONFIDENCE, FRACTIONS)
    alone = [np.mean([of[quantity].p_value <= LEVEL for of in tests]) for quantity in quantities]
    warned = np.mean([any(test.is_shift for test in of.values()) for of in tests])
    error = np.sqrt(LEVEL * (1 - LEVEL) / len(tests))
    cells = " | ".join(f"{100 * value:.1f} %" for value in (*alone, warned))
    return f"| {name} | {cells} | {100 * LEVEL:.0f} ± {100 * error:.1f} % |"


@click.command(context_settings={"show_default": True})
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a setting of the run.")
@click.option("--divisions", default=200, help="Number of random divisions.")
def main(run: str, overrides: tuple[str, ...], divisions: int) -> None:
    """Count the warnings over random divisions of the images of RUN."""
    settings = load_settings(run, parse_overrides(overrides))
    images, num_labeled = load(settings)
    print(f"{settings.name}: {num_labeled} of {len(images.score)} images labeled, {divisions} random divisions\n")
    print("| variant | keep rate, p <= 5 % | mean confidence | class fractions | warned (Holm) | nominal |")
    print("|---|---|---|---|---|---|")
    for variant in VARIANTS:
        rng = np.random.default_rng(settings.seed)
        chosen = (rng.choice(len(images.score), num_labeled, replace=False) for _ in range(divisions))
        own = settings.of_variant(variant)
        print(row(variant, [tests_of(own, images, labeled, rng) for labeled in chosen]), flush=True)


if __name__ == "__main__":
    main()

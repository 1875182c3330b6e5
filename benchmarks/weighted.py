"""Does weighting the labeled images by a density ratio bring coverage nearer to the target under a shift?

Weighted conformal prediction (Tibshirani, Barber, Candes and Ramdas 2019, arXiv 1904.06019) gives a labeled image the
weight P(unlabeled | image) / P(labeled | image). Here a logistic regression estimates it from what is observed without
masks, the mean confidence and the class fractions of the argmax, in 5 folds of cross-fitting, clipped to [1/CLIP, CLIP]
times its mean. The weights enter the threshold of variant image, in which each image counts once. The new image has the
mean weight of the unlabeled ones, so that all of them have one threshold.

Two shifts: the images of the run as they are (CamVid: its val images), and divisions of the images in which those that
contain a class are more often unlabeled than labeled. The run must be annotated, with masks of its unlabeled images:

    python benchmarks/weighted.py voc_animals --set data.root=FOLDER --shifted person --shifted sheep
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt
from shift import Images, load
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from calib.histogram import NUM_BINS, grid_bins
from pipeline.overrides import parse_overrides
from pipeline.run_file import load_settings

ALPHAS = (0.05, 0.1, 0.2)
CLIP, REGULARIZATION = 10.0, 0.1


class Coverage(NamedTuple):
    """Coverage of the unlabeled images, each with the same weight, at ALPHAS; and the effective number of images."""

    unweighted: npt.NDArray[np.float64]
    weighted: npt.NDArray[np.float64]
    effective: float


def below(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Fraction of the pixels of each image whose score is at most each grid number: float64 [N, NUM_BINS].

    scores: float32 [N, h, w], NaN = void
    """
    counts = [np.bincount(grid_bins(score[~np.isnan(score)]), minlength=NUM_BINS) for score in scores]
    cumulated = np.cumsum(counts, axis=1).astype(np.float64)
    return cumulated / np.maximum(cumulated[:, -1:], 1)


def features(images: Images) -> npt.NDArray[np.float64]:
    """Mean confidence and class fractions of each image: float64 [N, 1 + K]."""
    pixels = images.observed.pixels.sum(axis=1, keepdims=True)
    confidence = images.observed.probability.sum(axis=1, keepdims=True) / pixels
    return np.concatenate([confidence, images.observed.pixels / pixels], axis=1)


def density_ratio(observed: npt.NDArray[np.float64], is_unlabeled: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Clipped weights with mean 1 over the labeled images: float64 [N]."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARIZATION))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    chance = cross_val_predict(model, observed, is_unlabeled, cv=folds, method="predict_proba")[:, 1]
    ratio = chance / (1 - chance)
    ratio /= ratio[~is_unlabeled].mean()
    return np.clip(ratio, 1 / CLIP, CLIP)


def thresholds(below: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], of_new: float) -> npt.NDArray[np.intp]:
    """The smallest bins that keep 1 - alpha of the weight, if the new image, of weight `of_new`, lies above them.

    returns: [len(ALPHAS)], NUM_BINS if there is none
    """
    reached = weights @ below / (weights.sum() + of_new)
    return np.array([np.searchsorted(reached, 1 - alpha - 1e-12) for alpha in ALPHAS])


def coverage(
    below: npt.NDArray[np.float64], observed: npt.NDArray[np.float64], labeled: npt.NDArray[np.bool_]
) -> Coverage:
    weights = density_ratio(observed, ~labeled)
    of_labeled, of_new = weights[labeled], float(weights[~labeled].mean())
    padded = np.concatenate([below, np.ones((len(below), 1))], axis=1)
    covered = [
        padded[~labeled][:, thresholds(below[labeled], *given)].mean(axis=0)
        for given in ((np.ones(labeled.sum()), 1.0), (of_labeled, of_new))
    ]
    return Coverage(*covered, float(of_labeled.sum() ** 2 / (of_labeled**2).sum()))


def divisions(
    has_class: npt.NDArray[np.bool_], num_labeled: int, odds: float, draws: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.bool_]]:
    """Divisions in which an image with the class is drawn for the labeled ones with 1 / odds times the chance."""
    chance = np.where(has_class, 1 / odds, 1.0)
    for _ in range(draws):
        labeled = np.zeros(len(chance), np.bool_)
        labeled[rng.choice(len(chance), num_labeled, replace=False, p=chance / chance.sum())] = True
        yield labeled


def row(name: str, results: list[Coverage]) -> str:
    """Mean coverages, and mean distances of a division's coverage from the target."""
    cells = []
    for a, alpha in enumerate(ALPHAS):
        for of in ("unweighted", "weighted"):
            values = np.array([getattr(result, of)[a] for result in results])
            cells.append(f"{100 * values.mean():.1f} % ({100 * np.abs(values - (1 - alpha)).mean():.1f})")
    effective = np.mean([result.effective for result in results])
    return f"| {name} | {' | '.join(cells)} | {effective:.0f} |"


@click.command(context_settings={"show_default": True})
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a setting of the run.")
@click.option("--shifted", multiple=True, metavar="CLASS", help="Class that unlabeled images contain more often.")
@click.option(
    "--odds", default=4.0, help="Chance of an image without the class to be labeled, relative to one with it."
)
@click.option("--draws", default=100, help="Number of divisions for each class.")
def main(run: str, overrides: tuple[str, ...], shifted: tuple[str, ...], odds: float, draws: int) -> None:
    """Print coverages of the unlabeled images of RUN by thresholds without and with weights."""
    settings = load_settings(run, parse_overrides(overrides))
    images, num_labeled = load(settings)
    of_images, observed = below(images.score), features(images)
    names = [f"{100 * (1 - alpha):.0f} %, {of}" for alpha in ALPHAS for of in ("unweighted", "weighted")]
    print(
        f"{settings.name}: {num_labeled} of {len(observed)} images labeled; in brackets mean distance from the target\n"
    )
    print(f"| unlabeled images | {' | '.join(names)} | effective number of labeled images |")
    print(f"|{'---|' * (len(names) + 2)}")
    own = np.arange(len(observed)) < num_labeled
    print(row("of the run", [coverage(of_images, observed, own)]), flush=True)
    rng = np.random.default_rng(settings.seed)
    has = {
        f"more with {name}": images.observed.pixels[:, settings.data.class_names.index(name)] > 0 for name in shifted
    }
    for title, is_shifted in {f"{draws} random divisions": np.zeros(len(observed), np.bool_), **has}.items():
        drawn = divisions(is_shifted, num_labeled, odds, draws, rng)
        print(row(title, [coverage(of_images, observed, labeled) for labeled in drawn]), flush=True)


if __name__ == "__main__":
    main()

"""A guaranteed precision for variant pixel, by a split of the labeled images, against one threshold for all pixels.

Thresholds must not be made of the images that test them. `pseudolabel.guarantee` tests fixed thresholds, which no image
makes. Thresholds of single locations need a split: here one half of the labeled images makes those of variant pixel at
SPLIT_ALPHAS, and the other half tests their labels, from the largest alpha on, by the same bets. Labeled images are
drawn at random from all images of the run; the truth is that of the others. The run must be annotated:

    python benchmarks/split_guarantee.py voc_animals --set data.root=FOLDER --labeled 60 --labeled 120
"""

from __future__ import annotations

from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt
from shift import Images, load

import calib
from calib.betting import last_rejected, log_evidence, most_promising
from calib.curves import LabelCurves, candidate_thresholds, curves_of
from calib.interface import Block
from calib.precision import is_pilot, log_capital
from pipeline.datasets import IGNORE_INDEX
from pipeline.overrides import parse_overrides
from pipeline.run_file import load_settings

ERROR, RULE = 0.05, "argmax"
SPLIT_ALPHAS = tuple(np.round(np.geomspace(0.9, 0.02, 40), 4).tolist())


class Result(NamedTuple):
    """Of the labels of the other images: precision, keep rate and mIoU, in which a pixel without a label is missed."""

    precision: float
    keep_rate: float
    miou: float


def labels_at(images: Images, q: npt.NDArray[np.float32], background: int | None) -> npt.NDArray[np.float32]:
    """float32 [N, h, w], NaN without a label. q: float32 [h, w]"""
    by_image = zip(*(plane for plane in images.planes if plane is not None), strict=True)
    planes = (calib.Planes(*of_image, *([] if background is not None else [None])) for of_image in by_image)
    return np.stack([calib.label_pixels(of_image, q, RULE, background, "abstain") for of_image in planes])


def quality(labels: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> Result:
    valid = truth != IGNORE_INDEX
    kept, right = ~np.isnan(labels) & valid, (labels == truth) & valid
    ious = [
        (right & (truth == k)).sum() / ((labels == k) & valid | (truth == k)).sum() for k in np.unique(truth[valid])
    ]
    return Result(right.sum() / max(kept.sum(), 1), kept.sum() / valid.sum(), float(np.mean(ious)))


def fractions(labels: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Fractions of the pixels of each image that are labeled, and labeled wrong: float64 [2, N]."""
    valid = truth != IGNORE_INDEX
    kept = ~np.isnan(labels) & valid
    return np.stack([part.sum(axis=(1, 2)) / valid.sum(axis=(1, 2)) for part in (kept, kept & (labels != truth))])


def shown(curves: LabelCurves, alpha: float) -> int | None:
    """The last of the candidates, in their order, that are shown to be precise."""
    capital = log_capital(curves, is_pilot(len(curves.images)), alpha)
    return last_rejected(log_evidence(capital), most_promising(capital), ERROR)


def of_one_threshold(images: Images, alpha: float, background: int | None) -> npt.NDArray[np.float32] | None:
    """The threshold map of `pseudolabel.guarantee`; None if no threshold is shown to be precise."""
    truth = images.truth
    maps = {name: plane for name, plane in images.planes._asdict().items() if plane is not None}
    last = shown(curves_of(RULE, background, Block(np.arange(len(truth)), {"truth": truth, **maps})), alpha)
    return None if last is None else np.full(truth.shape[1:], candidate_thresholds()[last], np.float32)


def of_split(images: Images, alpha: float, background: int | None) -> npt.NDArray[np.float32] | None:
    """The threshold map of variant pixel from every other image, at the alpha that the others show; None if none."""
    number = np.arange(len(images.truth))
    made, tested = images[number[::2]], images[number[1::2]]
    maps = calib.ArrayMaps({"score": made.score, "truth": made.truth})
    (fitted,) = calib.fit(calib.Variant("pixel", SPLIT_ALPHAS), maps, np.zeros(len(made.truth), np.int64))
    q = [fitted.resolve("abstain").map(a) for a in range(len(SPLIT_ALPHAS))]
    labels = (labels_at(tested, of_alpha, background) for of_alpha in q)
    kept, wrong = np.stack([fractions(of_alpha, tested.truth) for of_alpha in labels], axis=-1)
    last = shown(LabelCurves(np.arange(len(kept)), kept, wrong), alpha)
    return None if last is None else q[last]


WAYS = {"one threshold, all images test": of_one_threshold, "pixel, half make, half test": of_split}


@click.command(context_settings={"show_default": True})
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a setting of the run.")
@click.option("--labeled", "sizes", multiple=True, type=int, required=True, help="Number of labeled images to draw.")
@click.option("--draws", default=10, help="Number of draws of labeled images.")
def main(run: str, overrides: tuple[str, ...], sizes: tuple[int, ...], draws: int) -> None:
    """Print how often each way shows a target precision, and the labels of the other images."""
    settings = load_settings(run, parse_overrides(overrides))
    (images, _), background = load(settings), settings.data.background_index
    print("| labeled images | target | way | shown | true precision (below the target) | keep rate | mIoU of labels |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        for target in (0.9, 0.95):
            for name, way in WAYS.items():
                rng, results = np.random.default_rng(size), []
                for _ in range(draws):
                    drawn = rng.permutation(len(images.truth))
                    own, others = images[np.sort(drawn[:size])], images[np.sort(drawn[size:])]
                    q = way(own, round(1 - target, 6), background)
                    if q is not None:
                        results.append(quality(labels_at(others, q, background), others.truth))
                cells = "| | |"
                if results:
                    precision, keep, miou = (100 * np.mean(of) for of in zip(*results, strict=True))
                    num_below = sum(result.precision < target for result in results)
                    cells = f"{precision:.1f} % ({num_below}) | {keep:.1f} % | {miou:.1f} |"
                print(f"| {size} | {target:.0%} | {name} | {len(results)} of {draws} | {cells}", flush=True)


if __name__ == "__main__":
    main()

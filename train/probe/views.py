"""The fixed views of an image: drawn as in training, but only once, so that their features can be kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.datasets import Sample, evenly_spaced
from pipeline.settings import Settings
from train.augment import Geometry, draw_geometry


class ViewPlan(NamedTuple):
    """How the views of an image are drawn.

    crop:  side of a view, pixels
    scale: range of the random resize before the crop, relative to the image's long side
    flip:  probability of a horizontal flip, 0 to 1
    num:   number of views
    """

    crop: int
    scale: tuple[float, float]
    flip: float
    num: int
    seed: int

    def geometries(self, digest: str, size: tuple[int, int]) -> list[Geometry]:
        """The views of an image of `size` (H, W): a pure function of the plan and the image's digest."""
        rng = random.Random(f"{self.seed}/probe/{digest}")
        return [draw_geometry(rng, size, self.crop, self.scale, self.flip) for _ in range(self.num)]

    def whole_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width at which a whole image is evaluated: the middle of the range of training sizes."""
        height, width = (max(1, round(side * sum(self.scale) / 2)) for side in size)
        return height, width


def view_plan(settings: Settings) -> ViewPlan:
    """Views as in training; if its crops are larger than `probe.crop`, crops and images shrink by the same factor."""
    train, own = settings.train, settings.probe
    shrink = min(1.0, own.crop / train.crop)
    scale = (shrink * train.scale[0], shrink * train.scale[1])
    return ViewPlan(min(own.crop, train.crop), scale, train.flip, own.views, settings.seed)


def thinned(labeled: Sequence[Sample], unlabeled: Sequence[Sample], most: int) -> tuple[list[Sample], list[Sample]]:
    """About `most` images or fewer in total, evenly spaced, with the same fraction of both lists."""
    fraction = min(1.0, most / max(1, len(labeled) + len(unlabeled)))
    num_labeled, num_unlabeled = (round(fraction * len(samples)) for samples in (labeled, unlabeled))
    return evenly_spaced(labeled, num_labeled), evenly_spaced(unlabeled, num_unlabeled)

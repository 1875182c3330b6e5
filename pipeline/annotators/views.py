"""Test-time augmentation of any annotator: the mean of its probabilities of several views of an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from pipeline.annotators.contract import Annotator, Images, Maps, Space, check_maps
from pipeline.annotators.first_maps import refuse_probabilities_as_logits
from pipeline.annotators.mixture import mean_maps
from pipeline.datasets import image_to_grid
from pipeline.receipt import fingerprint
from pipeline.resample import interpolated, softmax, taps_of_part
from pipeline.settings import ViewsSettings

VERSION = 1  # raise it when the same annotator and views would give other maps


class Span(NamedTuple):
    """A part of a side of an image, in pixels."""

    start: int
    stop: int


def spans(length: int, scale: float) -> list[Span]:
    """Evenly spaced parts of a side, each 1 / scale of it; together they cover it, and neighbours share a third.

    length:  of the side, in pixels
    scale:   at least 1
    """
    size = max(1, round(length / scale))
    steps = -(-3 * (length - size) // (2 * size))  # of at most two thirds of a part, rounded up
    starts = {round(i * (length - size) / max(1, steps)) for i in range(steps + 1)}
    return [Span(start, start + size) for start in sorted(starts)]


def num_calls(views: ViewsSettings, grid: Sequence[int]) -> int:
    """Number of calls of the annotator per image of that size."""
    crops = sum(len(spans(grid[0], scale)) * len(spans(grid[1], scale)) for scale in views.scales)
    return crops * (2 if views.flips else 1)


def frame_size(own: Sequence[int], views: ViewsSettings, resolution: str, grid: Sequence[int]) -> tuple[int, int]:
    """Height and width of the mean maps.

    own:        height and width of the annotator's maps
    resolution: `annotate.resolution`. annotator: the crops' resolution, but no more than the grid's unless `own` is
    """
    if resolution == "grid":
        return grid[0], grid[1]
    height, width = (
        max(side, min(round(max(views.scales) * side), limit)) for side, limit in zip(own, grid, strict=True)
    )
    return height, width


class ViewsAnnotator:
    """Implements the Annotator contract by another annotator, whose other attributes it has as well.

    A view is the whole image, or crops of 1 / scale of its sides; each crop is resized to the size of the image before
    the annotator gets it, and the probabilities are averaged where crops overlap. The mirror image of a crop is
    annotated too, and its maps are mirrored back. All views have the same weight.
    """

    space: Space = "probability"

    def __init__(self, annotator: Annotator, views: ViewsSettings, resolution: str):
        self.annotator, self.views, self.resolution = annotator, views, resolution
        scales = ", ".join(f"{scale:g}" for scale in views.scales)
        self.name = f"{annotator.name}, {'flips and ' if views.flips else ''}scales {scales}"
        self.fingerprint = ""  # that of the annotator is known after prepare_images
        self.num_maps: list[int] = []
        self.is_checked = False
        if hasattr(annotator, "prepare_lists"):
            self.prepare_lists = self._prepare_lists  # only then: the contract tells such annotators apart by it

    def __getattr__(self, name: str) -> Any:
        """Optional attributes of the contract are those of the annotator."""
        return getattr(self.__dict__["annotator"], name)

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Prepare the annotator."""
        self.num_maps = [len(class_prompts)]
        self.annotator.prepare(class_prompts)

    def _prepare_lists(self, lists: Sequence[Sequence[Sequence[str]]]) -> None:
        self.num_maps = [len(class_prompts) for class_prompts in lists]
        self.annotator.prepare_lists(lists)  # type: ignore[attr-defined]

    def prepare_images(self, ids: Sequence[str]) -> None:
        """Prepare the annotator for the images, if it distinguishes them."""
        if hasattr(self.annotator, "prepare_images"):
            self.annotator.prepare_images(ids)
        views = {"flips": self.views.flips, "scales": self.views.scales}
        self.fingerprint = fingerprint({"version": VERSION, "annotator": self.annotator.fingerprint, **views})

    def __call__(self, images: Images, ids: Sequence[str] = ()) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in [0, 1]."""
        mirrorings = [False, True] if self.views.flips else [False]
        versions = list(product(self.views.scales, mirrorings))
        mean = self._maps_of_view(images, ids, *versions[0])
        for number, version in enumerate(versions[1:], 1):
            pairs = zip(mean, self._maps_of_view(images, ids, *version), strict=True)
            mean = np.stack([mean_maps(np.stack(pair), [number, 1]) for pair in pairs])
        return mean

    def _maps_of_view(self, images: Images, ids: Sequence[str], scale: float, is_mirrored: bool) -> Maps:
        """Probabilities of a view, float32 [B, K, h, w] in [0, 1]: where crops overlap, their mean."""
        height, width = images.shape[1:3]
        crops = list(product(spans(height, scale), spans(width, scale)))
        parts = [self._annotated(images, ids, rows, columns, is_mirrored) for rows, columns in crops]
        size = frame_size(parts[0].shape[-2:], self.views, self.resolution, (height, width))
        total = np.zeros((*parts[0].shape[:2], *size), np.float32)
        number = np.zeros(size, np.float32)
        for (rows, columns), maps in zip(crops, parts, strict=True):
            y, of_rows = taps_of_part(maps.shape[-2], *rows, height, size[0])
            x, of_columns = taps_of_part(maps.shape[-1], *columns, width, size[1])
            total[..., y, x] += self._probabilities(interpolated(maps, of_rows, of_columns))
            number[y, x] += 1
        return np.minimum(total / number, 1)

    def _annotated(self, images: Images, ids: Sequence[str], rows: Span, columns: Span, is_mirrored: bool) -> Maps:
        """The annotator's maps of a crop of the images, in its space: float32 [B, K, h, w]."""
        step = -1 if is_mirrored else 1
        crops = images[:, slice(*rows), slice(*columns)]
        resized = np.stack([image_to_grid(crop[:, ::step], images.shape[1:3]) for crop in crops])
        arguments = (resized, ids) if hasattr(self.annotator, "prepare_images") else (resized,)
        maps = check_maps(self.annotator(*arguments), len(images), sum(self.num_maps), self.annotator)
        if not self.is_checked:
            refuse_probabilities_as_logits(maps[0], next(iter(ids), "an image"), self.annotator)
            self.is_checked = True
        return maps[..., ::step]

    def _probabilities(self, maps: Maps) -> Maps:
        """Probabilities from maps in the space of the annotator, float32 [B, K, h, w]."""
        if self.annotator.space == "probability":
            return maps
        ends = np.cumsum(self.num_maps)[:-1]
        return np.stack([np.concatenate([softmax(of_list) for of_list in np.split(one, ends)]) for one in maps])

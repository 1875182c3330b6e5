"""What is exported: the labels of one alpha of a store, each at its image's own size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import Sample, SampleIndex, class_index, load_samples, resize_nearest
from pipeline.errors import StoreError
from pipeline.folder import Folder, stage_command
from pipeline.palette import Colours, class_colours
from pipeline.store import LabelStore, open_labels

Label = npt.NDArray[np.uint8]
"""uint8 [H, W]: class index, 255 = abstain."""

ABSTAIN = "abstain"
ABSTAIN_COLOUR = (255, 255, 255)  # no class has it


@dataclass(frozen=True)
class LabelSource:
    """A finished label store, the samples behind it, and which of its alphas is meant (0: the chosen one)."""

    store: LabelStore
    index: SampleIndex
    position: int

    @cached_property
    def alphas(self) -> list[float]:
        return self.store.alphas

    @property
    def alpha(self) -> float:
        return self.alphas[self.position]

    @cached_property
    def class_names(self) -> list[str]:
        return self.store.class_names

    @property
    def background(self) -> int | None:
        index: int | None = self.store.state["background"]
        return index

    @cached_property
    def colours(self) -> Colours:
        """uint8 [K, 3] RGB."""
        return class_colours(len(self.class_names), self.background)

    @cached_property
    def samples(self) -> list[Sample]:
        """The store's images in its order; StoreError if samples.json does not list one."""
        by_id = {sample.id: sample for sample in self.index.samples}
        ids = self.store.sample_ids
        strange = next((i for i in ids if i not in by_id), None)
        if strange is not None:
            listing = Folder(self.store.path.parent).samples
            again = stage_command(self.store.path, "pseudolabel")
            raise StoreError(f"{listing} does not list {strange} of {self.store.path}; run {again}")
        return [by_id[i] for i in ids]

    @cached_property
    def place_of(self) -> dict[str, int]:
        """Where the store has the image of an id."""
        return {sample.id: place for place, sample in enumerate(self.samples)}

    def grid_label(self, place: int) -> npt.NDArray[np.float32]:
        """float32 [h, w] on the grid, NaN = abstain, of the image at a place of the store."""
        return self.store.label(place, self.position)

    def label(self, place: int) -> Label:
        """uint8 [H, W] at the image's own size, 255 = abstain."""
        sample = self.samples[place]
        return class_index(resize_nearest(self.grid_label(place), (sample.height, sample.width)))

    def probability(self, place: int) -> npt.NDArray[np.float32]:
        """float32 [H, W] at the image's own size: the annotator's probability of each label, see `kept_probability`."""
        sample = self.samples[place]
        on_grid = kept_probability(self.grid_label(place), self.store.planes(place), self.background)
        return resize_nearest(on_grid, (sample.height, sample.width))

    def image_file(self, place: int) -> Path:
        """The photograph; StoreError if it is not where prepare found it."""
        path = self.index.root / self.samples[place].image
        if not path.is_file():
            raise StoreError(f"no image {path}; run this in the folder that `prepare` ran in, or run prepare again")
        return path


def kept_probability(
    label: npt.NDArray[np.float32], planes: calib.Planes, background: int | None
) -> npt.NDArray[np.float32]:
    """float32 [h, w]: probability of each pixel's label, as far as the planes have it.

    NaN where the label abstains, and where class-wise thresholds chose a class that is not the best foreground one.
    """
    kept = np.where(label == planes.best_foreground, planes.p_foreground, np.float32(np.nan))
    if planes.p_background is not None:
        kept = np.where(label == background, planes.p_background, kept)
    return kept.astype(np.float32)


def open_source(path: Path, alpha: float | None = None) -> LabelSource:
    """The labels of an alpha (default: the chosen one) of a finished store.

    raises: StoreError if there is no finished label store, or it has no labels of this alpha
    """
    store = open_labels(path)
    source = LabelSource(store, load_samples(Folder(path.parent).samples), 0)
    if alpha is None:
        return source
    if alpha not in source.alphas:
        stored = ", ".join(f"{known:g}" for known in source.alphas)
        again = f"{stage_command(path, 'pseudolabel')} alpha={alpha:g}"
        raise StoreError(f"{path} has labels of alpha {stored}, not of {alpha:g}; choose one of them, or run {again}")
    return LabelSource(store, source.index, source.alphas.index(alpha))

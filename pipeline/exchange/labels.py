"""The exported labels: those of one alpha of a store, each at its image's own size; labels of tiles are stitched."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, class_index, load_samples, resize_nearest
from pipeline.errors import StoreError
from pipeline.exchange.images import ImageFiles
from pipeline.folder import Folder, stage_command
from pipeline.palette import Colours, class_colours
from pipeline.receipt import read_receipt
from pipeline.sources.fingerprints import sources_fingerprint
from pipeline.sources.ids import ImageIds
from pipeline.store import DONE, LabelStore, open_labels
from pipeline.tiles import stitch

T = TypeVar("T", bound=np.generic)

Label = npt.NDArray[np.uint8]
"""uint8 [H, W]: class index, 255 = abstain."""

ABSTAIN = "abstain"
ABSTAIN_COLOUR = (255, 255, 255)  # no class has it


@dataclass(frozen=True)
class ExportedLabels:
    """A finished label store, its samples, and the index of one of its alphas (0: the chosen one).

    An image that was cut into tiles is one image here: an index counts images, a row is one of the store.

    listed:        all samples that prepare listed
    copies_images: whether images in an export are copies; otherwise they are links where possible
    """

    store: LabelStore
    listed: SampleIndex
    alpha_index: int
    copies_images: bool = False

    @cached_property
    def index(self) -> SampleIndex:
        """The images as they are in the data set."""
        return self.listed.whole

    @cached_property
    def alphas(self) -> list[float]:
        return self.store.alphas

    @property
    def alpha(self) -> float:
        return self.alphas[self.alpha_index]

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
        """The images of the store, in its order.

        raises: StoreError if samples.json does not list an image of the store, or lists it outside the data root
        """
        by_id = {sample.id: sample for sample in self.index.samples}
        samples = [by_id[image] for image in self._rows]
        outside = next((sample.image for sample in samples if not _is_below(self.index.root, sample.image)), None)
        if outside is not None:
            raise StoreError(
                f"{Folder(self.store.path.parent).samples} lists the image {outside} outside its data root "
                f"{self.index.root}, which exports do not read; set data.root to a folder above all images, and run "
                f"{stage_command(self.store.path, 'pseudolabel', rerun='prepare')}"
            )
        return samples

    @cached_property
    def _rows(self) -> dict[str, dict[int, Sample]]:
        """Rows of the store by image: the image itself, or its tiles."""
        by_id = {sample.id: sample for sample in self.listed.samples}
        rows: dict[str, dict[int, Sample]] = {}
        for row, sample_id in enumerate(self.store.sample_ids):
            sample = by_id.get(sample_id)
            if sample is None:
                listing = Folder(self.store.path.parent).samples
                command = stage_command(self.store.path, "pseudolabel")
                raise StoreError(f"{listing} does not list {sample_id} of {self.store.path}; run {command}")
            rows.setdefault(sample.tile.image if sample.tile else sample.id, {})[row] = sample
        return rows

    def rows(self, index: int) -> list[int]:
        """Rows of an image in the store: one, or one for each tile."""
        return list(self._rows[self.samples[index].id])

    @cached_property
    def has_label(self) -> npt.NDArray[np.bool_]:
        """Whether a row has a label: bool [N]; False where the annotator failed."""
        return np.asarray(self.store.status == DONE)

    @cached_property
    def outcome_pixels(self) -> npt.NDArray[np.int32]:
        """Pixels of each row by what they became: int32 [N, len(OUTCOMES)], on the grid, at the chosen alpha."""
        return self.store.outcome_pixels

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Index by image id."""
        return {sample.id: index for index, sample in enumerate(self.samples)}

    @cached_property
    def images(self) -> ImageIds:
        """Finds images by their names."""
        return ImageIds(self.index_of)

    def grid_label(self, row: int) -> npt.NDArray[np.float32]:
        """Label on the grid: float32 [h, w], class index, NaN = abstain."""
        return self.store.label(row, self.alpha_index)

    def label(self, index: int) -> Label:
        """Label of an image at its own size: uint8 [H, W], class index, 255 = abstain."""
        return self._at_own_size(index, lambda row: class_index(self.grid_label(row)), np.uint8(IGNORE_INDEX))

    def probability(self, index: int) -> npt.NDArray[np.float32]:
        """The annotator's probability of each label at the image's own size: float32 [H, W], see `kept_probability`."""

        def on_grid(row: int) -> npt.NDArray[np.float32]:
            return kept_probability(self.grid_label(row), self.store.planes(row), self.background)

        return self._at_own_size(index, on_grid, np.float32(np.nan))

    def _at_own_size(self, index: int, on_grid: Callable[[int], npt.NDArray[T]], fill: T) -> npt.NDArray[T]:
        """A plane of an image [H, W], stitched if it was cut. Tiles on which the annotator failed have `fill`.

        on_grid: row -> its plane on the grid [h, w]
        """
        image = self.samples[index]
        rows = self._rows[image.id]
        if all(sample.tile is None for sample in rows.values()):
            return resize_nearest(on_grid(*rows), image.size)
        result = np.full(image.size, fill)
        for row, sample in rows.items():
            if sample.tile is not None and self.has_label[row]:
                stitch(result, sample.tile, resize_nearest(on_grid(row), sample.size))
        return result

    @property
    def image_files(self) -> ImageFiles:
        """Puts images into the export."""
        return ImageFiles(self.index, self.copies_images)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """The image: uint8 [H, W, 3]; DatasetError if the file is not the one that prepare read."""
        return self.index.image(self.samples[index])

    def image_bytes(self, index: int) -> bytes:
        """The image file; DatasetError if it is not the one that prepare read."""
        return self.index.image_bytes(self.samples[index])


def refuse_class(name: str, class_names: Sequence[str], program: str) -> None:
    """StoreError if a class has the name of pixels without a label in a program."""
    if name in class_names:
        raise StoreError(
            f"the class {name!r} cannot be exported to {program}, where it means no label; rename it in data.classes, "
            "or use another format"
        )


def _is_below(root: Path, name: str) -> bool:
    """Whether a path of samples.json is below the data root by its name; links below the root are followed."""
    path = Path(os.path.normpath(root / name))
    return path.is_relative_to(os.path.normpath(root))


def kept_probability(
    label: npt.NDArray[np.float32], planes: calib.Planes, background: int | None
) -> npt.NDArray[np.float32]:
    """Probability of each pixel's label, as far as the planes contain it.

    label:   float32 [h, w], class index, NaN = abstain
    returns: float32 [h, w] in [0, 1]; NaN where the label abstains, and where class-wise thresholds chose a foreground
             class that is not the most probable one
    """
    kept = np.where(label == planes.best_foreground, planes.p_foreground, np.float32(np.nan))
    if planes.p_background is not None:
        kept = np.where(label == background, planes.p_background, kept)
    return kept.astype(np.float32)


def refuse_other_images(store: LabelStore) -> None:
    """StoreError if the labels are not of the maps that annotate made last, or those are of other images than now."""
    folder = Folder(store.path.parent)
    receipt = folder.receipt("annotate")
    if not receipt.is_file():
        return
    annotated = read_receipt(receipt, "annotate")
    is_current = annotated.get("sources") == sources_fingerprint(folder.samples, "annotate")
    if not is_current or store.state["probabilities"] != annotated["fingerprint"]:
        raise StoreError(
            f"{store.path} was made from other images than {folder.samples} lists now; "
            f"run {stage_command(store.path, 'pseudolabel')}"
        )


def open_exported(
    path: Path, alpha: float | None = None, root: Path | None = None, copies_images: bool = False
) -> ExportedLabels:
    """Open the labels of one alpha of a finished store.

    alpha:  default: the chosen one
    root:   data root of the run; default: that of samples.json
    raises: StoreError if there is no finished label store, it has no labels of this alpha, or labels of other images
    """
    store = open_labels(path)
    refuse_other_images(store)
    index = load_samples(Folder(path.parent).samples)
    if root is not None and index.root != root:
        raise StoreError(
            f"{Folder(path.parent).samples} lists images in {index.root}, but data.root is {root}; run "
            f"{stage_command(path, 'pseudolabel', rerun='prepare')}"
        )
    exported = ExportedLabels(store, index, 0, copies_images)
    if alpha is None:
        return exported
    if alpha not in exported.alphas:
        stored = ", ".join(f"{known:g}" for known in exported.alphas)
        command = stage_command(path, "pseudolabel", changes=[f"alpha={alpha:g}"])
        raise StoreError(f"{path} has labels of alpha {stored}, not of {alpha:g}; choose one of them, or run {command}")
    return replace(exported, alpha_index=exported.alphas.index(alpha))

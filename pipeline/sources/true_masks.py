"""Masks of unlabeled images, which only reports and tables read. They are checked as those of labeled images are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import (
    IGNORE_INDEX,
    Sample,
    SampleIndex,
    evenly_spaced,
    mask_classes,
    read_index_mask,
    unknown_mask_values,
)
from pipeline.errors import DatasetError
from pipeline.images import IndexMask, PixelLimit
from pipeline.settings import DataSettings
from pipeline.sources.layouts import Tree
from pipeline.sources.palettes import Colours, palette_problems
from pipeline.sources.rows import open_mask_again
from pipeline.tiles import only_core

MAX_COMPARED = 50  # labeled masks whose palettes are compared; prepare has compared all of them
MAX_SHOWN = 8


def truth_path(sample: Sample, data: DataSettings) -> Path | None:
    """Mask file of an image, also of an unlabeled one; None if there is none. Only for evaluation in reports."""
    tree = Tree(data)
    return tree.mask_of(tree.root / sample.image) if sample.mask is None else tree.root / sample.mask


class TrueMasks(NamedTuple):
    """Reads masks that `prepare` did not read.

    colours: colours by value of labeled masks with a palette, by path
    cut:     images that were cut into tiles, by id
    """

    data: DataSettings
    colours: dict[str, Colours]
    cut: dict[str, Sample]

    @classmethod
    def like_labeled(cls, index: SampleIndex, data: DataSettings) -> TrueMasks:
        """A reader that compares palettes with those of the labeled masks."""
        colours = {}
        for sample in evenly_spaced(index.of("labeled"), MAX_COMPARED):
            path = index.root / str(sample.mask)
            with contextlib.suppress(DatasetError):  # the stages that use it report it
                colours[str(path)] = read_index_mask(path, PixelLimit(data.max_pixels)).colours()
        of_masks: dict[str, Colours] = {path: of_mask for path, of_mask in colours.items() if of_mask}
        return cls(data, of_masks, {image.id: image for image in index.cut})

    def of(self, sample: Sample) -> TrueMasks:
        """A reader of the mask of this sample alone: what a job on another machine needs of it."""
        return self._replace(cut={} if sample.tile is None else {sample.tile.image: self.cut[sample.tile.image]})

    def path(self, sample: Sample) -> Path | None:
        """Mask file of a sample or, of an unlabeled tile, that of its image; None if there is none."""
        tile = sample.tile if sample.mask is None else None  # labeled tiles have masks of their own
        return truth_path(sample if tile is None else self.cut[tile.image], self.data)

    def read(self, path: Path, sample: Sample) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] class index, IGNORE_INDEX = void: the mask of an unlabeled sample, with the size of its image.

        That of a tile is void outside its core, as for labeled tiles.

        path:   as `path` returns it
        raises: DatasetError if the file is no mask, or `prepare` would refuse it as that of a labeled image
        """
        mask = self._mask(path, sample)
        refuse_unknown(path, mask, self.data)
        colours = mask.colours()
        for problem in palette_problems({**self.colours, str(path): colours}) if colours else ():
            raise DatasetError(problem)
        return only_core(mask_classes(mask.values, self.data), sample.tile, IGNORE_INDEX)

    def _mask(self, path: Path, sample: Sample) -> IndexMask:
        if sample.tile is None:
            mask = read_index_mask(path, PixelLimit(self.data.max_pixels))
            refuse_other_size(path, mask.values.shape, sample)
            return mask
        rows = open_mask_again(path, self.data)
        refuse_other_size(path, rows.header.size, self.cut[sample.tile.image])
        return rows.window(sample.tile.window)


def refuse_unknown(path: Path, mask: IndexMask, data: DataSettings) -> None:
    """DatasetError for a mask with values of no class."""
    unknown = unknown_mask_values(np.array(mask.present()), data)
    if unknown:
        shown = ", ".join(map(str, unknown[:MAX_SHOWN]))
        raise DatasetError(f"{path} has values of no class: {shown}; add them to data.classes or data.ignore_values")


def refuse_other_size(path: Path, size: Sequence[int], image: Sample) -> None:
    """DatasetError for a mask of another size than its image. size: H, W of the mask"""
    if tuple(size) != image.size:
        height, width = size
        raise DatasetError(
            f"{path} has {height} x {width} pixels, its image {image.height} x {image.width}; make them equal"
        )

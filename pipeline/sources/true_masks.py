"""Masks of unlabeled images, which only reports and tables read. They are checked as those of labeled images are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import Sample, SampleIndex, evenly_spaced, mask_classes, read_index_mask, unknown_mask_values
from pipeline.errors import DatasetError
from pipeline.images import IndexMask, PixelLimit
from pipeline.settings import DataSettings
from pipeline.sources.layouts import Tree
from pipeline.sources.palettes import Colours, palette_problems

MAX_COMPARED = 50  # labeled masks whose palettes are compared; prepare has compared all of them
MAX_SHOWN = 8


def truth_path(sample: Sample, data: DataSettings) -> Path | None:
    """Mask file of a sample, also of an unlabeled one; None if there is none, and for an unlabeled tile.

    Only for evaluation in reports.
    """
    tree = Tree(data)
    if sample.mask is not None:
        return tree.root / sample.mask
    return None if sample.tile is not None else tree.mask_of(tree.root / sample.image)


class TrueMasks(NamedTuple):
    """Reads masks that `prepare` did not read."""

    data: DataSettings
    colours: dict[str, Colours]
    """Colours by value of labeled masks with a palette, by path."""

    @classmethod
    def like_labeled(cls, index: SampleIndex, data: DataSettings) -> TrueMasks:
        """A reader that compares palettes with those of the labeled masks."""
        colours = {}
        for sample in evenly_spaced(index.of("labeled"), MAX_COMPARED):
            path = index.root / str(sample.mask)
            with contextlib.suppress(DatasetError):  # the stages that use it report it
                colours[str(path)] = read_index_mask(path, PixelLimit(data.max_pixels)).colours()
        return cls(data, {path: of_mask for path, of_mask in colours.items() if of_mask})

    def read(self, path: Path, sample: Sample) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] class index, IGNORE_INDEX = void: the mask of a sample, with the size of its image.

        raises: DatasetError if the file is no mask, or `prepare` would refuse it as that of a labeled image
        """
        mask = read_index_mask(path, PixelLimit(self.data.max_pixels))
        refuse_unfit(path, mask, sample, self.data)
        colours = mask.colours()
        for problem in palette_problems({**self.colours, str(path): colours}) if colours else ():
            raise DatasetError(problem)
        return mask_classes(mask.values, self.data)


def refuse_unfit(path: Path, mask: IndexMask, sample: Sample, data: DataSettings) -> None:
    """DatasetError for a mask with values of no class, or of another size than its image."""
    unknown = unknown_mask_values(np.array(mask.present()), data)
    if unknown:
        shown = ", ".join(map(str, unknown[:MAX_SHOWN]))
        raise DatasetError(f"{path} has values of no class: {shown}; add them to data.classes or data.ignore_values")
    if mask.values.shape != sample.size:
        height, width = mask.values.shape
        raise DatasetError(
            f"{path} has {height} x {width} pixels, its image {sample.height} x {sample.width}; make them equal"
        )

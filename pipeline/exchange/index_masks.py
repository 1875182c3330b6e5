"""Index masks without names: in class indices, as exports have them, or in the run's own mask values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.datasets import IGNORE_INDEX, read_index_mask
from pipeline.errors import DatasetError
from pipeline.exchange import png
from pipeline.exchange.labels import ABSTAIN
from pipeline.files import MASK_SUFFIXES, files_in
from pipeline.images import PixelLimit
from pipeline.settings import DataSettings
from pipeline.sources.annotations.annotated import Annotations
from pipeline.sources.annotations.coloured import Legend, pack, read_coloured

MAX_SHOWN = 5


def read(folder: Path, data: DataSettings) -> Annotations:
    """The masks of a folder without classes.txt, by what their values can mean.

    raises: DatasetError if they can be both class indices and mask values of the run, and mean different classes
    """
    of_run, of_export = run_values(data), export_values(data)
    present = set(_values(folder, data))
    is_of_run, is_of_export = present <= of_run.keys(), present <= of_export.keys()
    doubtful = [value for value in sorted(present) if of_run.get(value) != of_export.get(value)]
    if is_of_run and is_of_export and doubtful:
        shown = ", ".join(map(str, doubtful[:MAX_SHOWN])) + (", ..." if len(doubtful) > MAX_SHOWN else "")
        raise DatasetError(
            f"the masks in {folder} have values ({shown}) that mean different classes as mask values of data.classes "
            "and as class indices, which an export has; add --from masks if they are like the masks of the run, or "
            "--from png if they come from an export"
        )
    return read_as_masks_of_run(folder, data) if is_of_run and not is_of_export else png.read(folder, data)


def read_as_masks_of_run(folder: Path, data: DataSettings) -> Annotations:
    """The masks of a folder by the mask values of the run, as `prepare` reads them."""
    names = [*data.class_names, ABSTAIN]
    legend = Legend(names, run_values(data), {}, Path("data.classes"))
    return Annotations(names, [read_coloured(path, folder, legend) for path in _files(folder, data)])


def run_values(data: DataSettings) -> dict[int, int]:
    """Mask value -> class index; the number of classes for a value without a class."""
    of_classes = {value: index for index, values in enumerate(data.mask_values) for value in values}
    return dict.fromkeys(data.ignore_values, data.num_classes) | of_classes


def export_values(data: DataSettings) -> dict[int, int]:
    """The same for the values of an export."""
    return {IGNORE_INDEX: data.num_classes, **{index: index for index in range(data.num_classes)}}


def _values(folder: Path, data: DataSettings) -> Iterator[int]:
    """The values that occur, but not of masks in the colours of an export, whose values do not matter.

    Files that cannot be read are reported with the other problems of the masks, when they are imported.
    """
    of_export = {pack(colour) for colour in png.colours_of(data.num_classes, data.background_index)}
    for path in _files(folder, data):
        with contextlib.suppress(DatasetError):
            mask = read_index_mask(path, PixelLimit(data.max_pixels))
            colours = mask.colours()
            if not colours or not set(colours.values()) <= of_export:
                yield from mask.present()


def _files(folder: Path, data: DataSettings) -> list[Path]:
    return files_in(folder, MASK_SUFFIXES, data.subfolders)

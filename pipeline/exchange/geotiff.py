"""GeoTIFFs: one band of class indices in colours, 255 = no data, with the georeference of the image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.exchange.png import palette_picture
from pipeline.exchange.png import write_rest as write_classes
from pipeline.images import tiff_tags

log = logging.getLogger(__name__)

GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737)
"""Tags of a GeoTIFF: pixel scale, tie points, transformation, and the keys with their numbers and texts."""
NO_DATA, TEXT = 42113, 2  # GDAL's tag, and TIFF's type of a text


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> bool:
    """Write ID.tif; returns whether it has a georeference.

    raises: DatasetError if the image file is not the one that prepare read
    """
    sample = exported.samples[index]
    tags = tiff_tags(exported.index.image_file(sample), GEOREFERENCE)
    directory = ImageFileDirectory_v2()
    for tag, (kind, value) in {**tags, NO_DATA: (TEXT, str(IGNORE_INDEX))}.items():
        directory.tagtype[tag] = kind
        directory[tag] = value
    picture = palette_picture(label, exported.colours)
    picture.save(folder / f"{sample.id}.tif", format="TIFF", compression="tiff_deflate", tiffinfo=directory)
    return bool(tags)


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write the names of the classes, as `png` does. Images without a georeference are counted."""
    write_classes(folder, exported, rows, facts)
    without = [exported.samples[index].image for index, has_georeference in rows if not has_georeference]
    if without:
        log.warning(
            "export geotiff: %d of %d images have no georeference, e.g. %s; their labels have none either",
            len(without),
            len(rows),
            without[0],
        )

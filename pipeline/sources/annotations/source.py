"""The table of the readers, and the files and folders that they read."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DatasetError
from pipeline.sources.annotations import coco, cvat_masks, cvat_xml, label_studio, labelme, yolo
from pipeline.sources.annotations.annotated import Annotations
from pipeline.sources.annotations.archive import unpack

ZIP_SUFFIX = ".zip"


class Reader(NamedTuple):
    """One format. Both functions take a file, or a folder of files.

    is_here: whether there are annotations of this format
    read:    reads them; the second argument is the largest height times width of an image. Raises DatasetError
    """

    is_here: Callable[[Path], bool]
    read: Callable[[Path, int], Annotations]


READERS = {
    "cvat": Reader(
        lambda source: cvat_masks.is_here(source) or cvat_xml.is_here(source),
        lambda source, _: cvat_masks.read(source) if cvat_masks.is_here(source) else cvat_xml.read(source),
    ),
    "yolo": Reader(yolo.is_here, lambda source, _: yolo.read(source)),
    "labelme": Reader(labelme.is_here, lambda source, _: labelme.read(source)),
    "label-studio": Reader(label_studio.is_here, lambda source, _: label_studio.read(source)),
    "coco": Reader(coco.is_here, coco.read),
}
"""Readers by name, in the order in which they are tried: COCO's takes any JSON that no other takes."""


def detect(source: Path) -> str | None:
    """Name of the format of a file, or of the files in a folder; None if no reader reads them."""
    return next((name for name, reader in READERS.items() if reader.is_here(source)), None)


@contextlib.contextmanager
def unpacked(source: Path, num_pixels: int) -> Iterator[Path]:
    """The folder or file itself, or a temporary folder with the contents of a zip. Messages name the zip.

    A folder in the zip that contains nothing but one folder is replaced by that one.

    num_pixels: of all images of the run
    """
    if not source.exists():
        raise DatasetError(f"no {source}; give a folder, a zip or a file with annotations")
    if source.suffix.lower() != ZIP_SUFFIX or source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(source, folder, num_pixels)
        entries = list(folder.iterdir())
        while len(entries) == 1 and entries[0].is_dir():
            folder = entries[0]
            entries = list(folder.iterdir())
        try:
            yield folder
        except DatasetError as error:
            raise DatasetError(str(error).replace(name, str(source))) from None

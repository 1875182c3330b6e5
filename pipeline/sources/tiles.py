"""Cuts large images and their masks into tiles: files of their own in the run's folder, which all stages read."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets import Sample, SampleIndex
from pipeline.errors import ImageFileError, UserError
from pipeline.files import Stamp, content_digest, file_digest, remove_folder, remove_leftovers, replacing, stamp_of
from pipeline.images import PHOTOGRAPH, IndexMask, read_header
from pipeline.receipt import fingerprint
from pipeline.record import read_record, write_record
from pipeline.settings import DataSettings, TileSettings
from pipeline.sources.rows import Rows
from pipeline.tiles import Tile, tiles_of

VERSION = 1
LIST = "tiles.json"  # digests of the tiles of one file, written when all are there

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TileFolder:
    """Where the tiles of a run are: a folder for each image or mask that was cut, named by its content.

    A new content gets a new folder, so the tiles that samples.json lists stay as they are until it is written again.
    """

    path: Path
    settings: TileSettings

    def cut(self, sample: Sample, root: Path, image: Rows[Pixels], mask: Rows[IndexMask] | None) -> list[Sample]:
        """The tiles of an image, written if they are not there; raises as `Rows.read`.

        sample: with its size and digests
        root:   data root
        mask:   None for an unlabeled image
        """
        tiles = tiles_in(sample.id, sample.size, self.settings)
        images = self._written(tiles, sample.image_digest, ".png", lambda tile: png_of(tile, image))
        masks = (
            {} if mask is None else self._written(tiles, sample.mask_digest, ".tif", lambda tile: tiff_of(tile, mask))
        )
        return [_sample_of(tile, sample, root, images[tile.id], masks.get(tile.id)) for tile in tiles]

    def _written(
        self, tiles: Sequence[Tile], source: str, suffix: str, encode: Callable[[Tile], bytes]
    ) -> dict[str, File]:
        """The files of the tiles by their ids. source: digest of the file that is cut"""
        made_by = fingerprint({"version": VERSION, "file": source, "as": suffix, "tile": self.settings.tracked()})
        folder = self.path / f"{tiles[0].image}@{made_by}"
        names = {tile.id: f"{tile.window.top},{tile.window.left}{suffix}" for tile in tiles}
        known = _recorded(folder / LIST)
        digests = {name: digest for name, digest in known.items() if _is_whole(folder / name, digest)}
        for tile in tiles:
            name = names[tile.id]
            if name not in digests:
                content = encode(tile)
                with replacing(folder / name) as part:
                    part.write_bytes(content)
                digests[name] = content_digest(content)
        if digests != known:
            write_record(folder / LIST, digests)
        return {tile_id: File(folder / name, digests[name]) for tile_id, name in names.items()}


@dataclass(frozen=True)
class File:
    """A file that was written, and its digest."""

    path: Path
    digest: str


def tiles_in(image: str, size: Sequence[int], settings: TileSettings | None) -> list[Tile]:
    """Tiles of an image of a height and width; [] if it stays whole."""
    if settings is None or not settings.are_of(size):
        return []
    return tiles_of(image, size, settings.size, settings.overlap_pixels)


def sample_ids(samples: Iterable[Sample], data: DataSettings) -> list[str]:
    """Ids of the samples that prepare makes of images: those of the tiles of an image that is cut.

    An image that cannot be read keeps its own.
    """
    ids = []
    for sample in samples:
        tiles: list[Tile] = []
        with contextlib.suppress(ImageFileError):
            if data.tile is not None:
                tiles = tiles_in(sample.id, read_header(Path(data.root) / sample.image, PHOTOGRAPH).size, data.tile)
        ids += [tile.id for tile in tiles] or [sample.id]
    return ids


def remove_other_tiles(folder: Path, index: SampleIndex) -> None:
    """Remove the tiles of a run that an index does not list, and what killed processes left."""
    remove_leftovers(folder, below=True)
    used = {(index.root / name).resolve().parent for name in tile_files(index.samples)}
    for one in folder.iterdir() if folder.is_dir() else ():
        if one.resolve() not in used:
            remove_folder(one)
    if folder.is_dir() and not used:
        folder.rmdir()


def tile_files(samples: Iterable[Sample]) -> list[str]:
    """Paths relative to the data root of the images and masks of all tiles among the samples."""
    tiles = (sample for sample in samples if sample.tile is not None)
    return [name for sample in tiles for name in (sample.image, sample.mask) if name is not None]


def stamps_of(index: SampleIndex) -> dict[str, Stamp]:
    """Stamps of the files of all tiles, by path relative to the data root."""
    return {name: stamp_of(os.stat(index.root / name)) for name in tile_files(index.samples)}


def png_of(tile: Tile, image: Rows[Pixels]) -> bytes:
    """A PNG of the tile's window."""
    return _encoded(image.window(tile.window), "PNG", compress_level=1)


def tiff_of(tile: Tile, mask: Rows[IndexMask]) -> bytes:
    """A TIFF of the tile's window, which holds integers of any size."""
    values = mask.window(tile.window).values
    is_small = values.min() >= 0 and values.max() <= np.iinfo(np.uint8).max
    return _encoded(values.astype(np.uint8) if is_small else values, "TIFF", compression="tiff_deflate")


def _encoded(array: npt.NDArray[Any], file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=file_format, **options)
    return file.getvalue()


def _sample_of(tile: Tile, whole: Sample, root: Path, image: File, mask: File | None) -> Sample:
    return replace(
        whole,
        id=tile.id,
        image=_relative(image.path, root),
        mask=None if mask is None else _relative(mask.path, root),
        height=tile.window.height,
        width=tile.window.width,
        image_digest=image.digest,
        mask_digest="" if mask is None else mask.digest,
        group=whole.group or whole.id,
        tile=tile,
    )


def _relative(path: Path, root: Path) -> str:
    """The path from the data root. Links are followed first, because `..` behind a link leads elsewhere."""
    return os.path.relpath(path.resolve(), root.resolve())


def _recorded(path: Path) -> dict[str, str]:
    try:
        return read_record(path, "")
    except (OSError, UserError):  # not there, or damaged
        return {}


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False

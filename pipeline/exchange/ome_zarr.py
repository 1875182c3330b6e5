"""OME-Zarr 0.5: one store ID.zarr per image, with the image, its labels, and their colours and names.

OME-Zarr has no NaN: the id of a label is its class index plus 1, and 0 means abstain. These stores are for viewers
only; the stores of the stages are in `pipeline.store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.datasets import IGNORE_INDEX, image_to_grid, resize_nearest
from pipeline.exchange.labels import ABSTAIN, ExportedLabels, Label

VERSION = "0.5"
LABELS = "pseudolabels"
MIN_LEVELS = 2
SMALL_ENOUGH = 256  # pixels: the long side of the smallest level is at most this
MAX_CHUNK = 1024
CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())
CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))

Array = npt.NDArray[np.uint8]


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> None:
    """Write ID.zarr: the image (c, y, x), and its label (y, x) below `labels`."""
    sample = exported.samples[index]
    image, ids = exported.image(index), label_ids(label)
    group = zarr.open_group(folder / f"{sample.id}.zarr", mode="w-", zarr_format=3)
    sizes = level_sizes(*ids.shape)
    _write_levels(group, [np.moveaxis(image_to_grid(image, size), -1, 0) for size in sizes], ("c", "y", "x"))
    labels = group.create_group("labels")
    pseudolabels = labels.create_group(LABELS)
    _write_levels(pseudolabels, [resize_nearest(ids, size) for size in sizes], ("y", "x"))
    group.attrs["ome"] = {
        "version": VERSION,
        "multiscales": [_multiscales(sample.id, sizes, ("c", "y", "x"))],
        "omero": {"channels": [_channel(name, colour) for name, colour in CHANNELS]},
    }
    # version 0.5 has the list below `ome`; some viewers still read it where version 0.4 had it
    labels.attrs.update({"ome": {"version": VERSION, "labels": [LABELS]}, "labels": [LABELS]})
    pseudolabels.attrs["ome"] = {
        "version": VERSION,
        "multiscales": [_multiscales(LABELS, sizes, ("y", "x"))],
        "image-label": _legend(exported),
    }


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write nothing: there are no common files."""


def label_ids(label: Label) -> Array:
    """uint8 [H, W]: class index plus 1, 0 = abstain. At most 255 classes fit."""
    return np.where(label == IGNORE_INDEX, 0, label + 1).astype(np.uint8)


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(H, W) of the levels of the pyramid, at least two. Each has half the height and width of the one before."""
    sizes = [(height, width)]
    while len(sizes) < MIN_LEVELS or max(sizes[-1]) > SMALL_ENOUGH:
        height, width = (max(1, (side + 1) // 2) for side in sizes[-1])
        sizes.append((height, width))
    return sizes


def _write_levels(group: zarr.Group, levels: Sequence[Array], axes: Sequence[str]) -> None:
    for number, level in enumerate(levels):
        array = group.create_array(
            str(number),
            shape=level.shape,
            dtype="uint8",
            chunks=tuple(max(1, min(side, MAX_CHUNK)) for side in level.shape),
            compressors=CODECS,
            dimension_names=axes,
            config={"write_empty_chunks": True},  # as if it were lost otherwise
        )
        array[...] = level


def _multiscales(name: str, sizes: Sequence[tuple[int, int]], axes: Sequence[str]) -> dict[str, Any]:
    """Axes and levels. Pixel (0, 0) of level 0 is at the origin; that of a coarser level is shifted."""
    kinds = {"c": "channel", "y": "space", "x": "space"}
    datasets = []
    for number, size in enumerate(sizes):
        factors = [full / side for full, side in zip(sizes[0], size, strict=True)]
        others = len(axes) - 2
        scale, shift = [1.0] * others + factors, [0.0] * others + [(factor - 1) / 2 for factor in factors]
        transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        datasets.append({"path": str(number), "coordinateTransformations": transformations})
    return {"name": name, "axes": [{"name": axis, "type": kinds[axis]} for axis in axes], "datasets": datasets}


def _channel(name: str, colour: str) -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": name, "color": colour, "active": True, "window": window}


def _legend(exported: ExportedLabels) -> dict[str, Any]:
    """Colour and name of every label id. Id 0, abstain, is transparent."""
    colours = [[0, 0, 0, 0], *([*colour, 255] for colour in exported.colours.tolist())]
    names = [ABSTAIN, *exported.class_names]
    return {
        "version": VERSION,
        "colors": [{"label-value": value, "rgba": colour} for value, colour in enumerate(colours)],
        "properties": [{"label-value": value, "class": name} for value, name in enumerate(names)],
        "source": {"image": "../../"},
    }

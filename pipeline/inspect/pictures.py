"""A picture of one image of a store: labels or scores drawn over the photograph, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.datasets import load_samples, resize_nearest
from pipeline.drawing.pictures import Picture, fit_label, hatch, paint_classes, paint_values
from pipeline.errors import StoreError
from pipeline.folder import Folder, run_folder
from pipeline.palette import class_colours, scale_colours
from pipeline.settings import did_you_mean
from pipeline.sources.ids import ImageIds
from pipeline.store import (
    DONE,
    FAILED,
    AnyStore,
    CalibrationStore,
    ProbabilityStore,
    open_for_inspection,
    refuse_lost,
    remake_command,
)

ROW, SWATCH, GAP = 22, 14, 6

Entry = tuple[str, Picture]


def write_picture(path: Path, name: str, out: Path | None = None) -> Path:
    """Write an overlay of one image: most probable class, pseudo-label or score, depending on the kind of store.

    The photograph is found through the samples.json beside the store. Pixels without a label or score are hatched.

    name:    id, path or stem of the image
    out:     default: ID.png in the working folder
    returns: the file
    raises:  StoreError if the store or its image does not exist or is not done; DatasetError without samples.json, if
             the photograph has changed, and for a stem of several images
    """
    store = open_for_inspection(path)
    refuse_lost(store)
    sample_id = ImageIds(store.sample_ids).resolve(name)
    out = out or Path(f"{sample_id}.png")
    index = _index_of(store, sample_id)
    image = _photograph(path, sample_id)
    overlay, legend = _overlay(store, index, image)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(with_legend(overlay, legend)).save(out)
    return out


def _index_of(store: AnyStore, sample_id: str) -> int:
    ids = store.sample_ids
    if sample_id not in ids:
        raise StoreError(f"{store.path} has no image {sample_id}{did_you_mean(sample_id, ids) or f'; e.g. {ids[0]}'}")
    index = ids.index(sample_id)
    status = store.status[index]
    if status != DONE:
        what = "failed, see the receipt of annotate" if status == FAILED else "is not done yet"
        done = np.flatnonzero(store.status == DONE)
        other = f"choose an image that is done: --png {ids[done[0]]}" if done.size else "no image is done yet"
        raise StoreError(f"{sample_id} of {store.path} {what}; {other}")
    return index


def _photograph(path: Path, sample_id: str) -> Picture:
    listed = Folder(run_folder(path)).samples
    index = load_samples(listed)
    sample = next((sample for sample in index.samples if sample.id == sample_id), None)
    if sample is None:
        raise StoreError(f"{listed} does not list {sample_id}; run {remake_command(path)}")
    return index.image(sample)


def _overlay(store: AnyStore, index: int, image: Picture) -> tuple[Picture, list[Entry]]:
    """The painted image, and its legend."""
    if isinstance(store, CalibrationStore):
        score = resize_nearest(store.read_chunk("score", index), image.shape[:2])
        return paint_values(image, score, 0.0, 1.0), _scale_legend()
    colours = class_colours(len(store.class_names), store.state.get("background"))
    legend = [(name, _plain(colour)) for name, colour in zip(store.class_names, colours, strict=True)]
    if isinstance(store, ProbabilityStore):
        return paint_classes(image, fit_label(most_probable(store, index), image), colours), legend
    label = fit_label(store.label(index), image)
    return paint_classes(image, label, colours), [*legend, ("no class", hatch(_plain([120] * 3)))]


def most_probable(store: ProbabilityStore, index: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W] on the grid: most probable class; the lowest index if several are equal."""
    strips = store.probabilities(index).strips()
    return np.concatenate([strip.argmax(axis=0).astype(np.uint8) for _, strip in strips])


def with_legend(picture: Picture, entries: Sequence[Entry]) -> Picture:
    """uint8 [H, W, 3]: the picture above rows of swatches with names. Small pictures are enlarged to fit the names."""
    font = ImageFont.load_default(size=13)
    factor = max(1, round(320 / picture.shape[1]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[:2]
    corners, x, row = [], GAP, 0
    for name, _ in entries:
        length = SWATCH + 2 * GAP + int(font.getlength(name))
        if x > GAP and x + length > width:
            x, row = GAP, row + 1
        corners.append((x, height + GAP + row * ROW))
        x += length + GAP
    canvas = Image.new("RGB", (width, height + 2 * GAP + (row + 1) * ROW), "white")
    canvas.paste(Image.fromarray(picture))
    for (name, swatch), (x, y) in zip(entries, corners, strict=True):
        canvas.paste(Image.fromarray(swatch), (x, y))
        ImageDraw.Draw(canvas).text((x + SWATCH + GAP, y - 1), name, fill="black", font=font)
    return np.array(canvas)


def _scale_legend() -> list[Entry]:
    colours = scale_colours()
    steps = [(f"{step / 4:g}", _plain(colours[round(step / 4 * (len(colours) - 1))])) for step in range(5)]
    return [("score 1 - P(true class):", _plain([255] * 3)), *steps, ("void", hatch(_plain([120] * 3)))]


def _plain(colour: npt.ArrayLike) -> Picture:
    return np.broadcast_to(np.asarray(colour, np.uint8), (SWATCH, SWATCH, 3)).copy()

"""Label Studio's tasks with predictions: one brush stroke per class and image, which keeps every pixel.

Abstained pixels are a stroke of their own, so that a person sees them, and they come back as what they are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.exchange.labels import ABSTAIN, ABSTAIN_COLOUR, ExportedLabels, Label, refuse_class
from pipeline.exchange.texts import render

FROM, TO = "label", "image"  # names of the tags in the labeling interface
CHANNELS = 4  # red, green, blue and opacity of a brush stroke
WORD = 8  # bits of a value
LENGTHS = (3, 4, 8, 16)  # bits of the length of a run
HEAD = f"{WORD - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in LENGTHS)


def write_image(folder: Path, exported: ExportedLabels, index: int, label: Label) -> dict[str, Any]:
    """Put images/ID.SUFFIX, and return the task. `write_rest` writes it. StoreError for a class named `abstain`."""
    refuse_class(ABSTAIN, exported.class_names, "Label Studio")
    sample, files = exported.samples[index], exported.image_files
    (folder / "images").mkdir(exist_ok=True)
    name = f"images/{sample.id}{files.suffix(sample)}"
    files.put(sample, folder / name)
    found = prediction(label, exported.class_names, FROM, TO, "conformalsam")
    return {"data": {"image": f"/data/local-files/?d={quote(name)}", "id": sample.id}, "predictions": [found]}


def prediction(
    label: Label,
    class_names: Sequence[str],
    brush: str,
    image: str,
    version: str,
    known: Collection[str] | None = None,
) -> dict[str, Any]:
    """A label as a prediction: one brush stroke for each class, and one for the pixels without a label, `abstain`.

    label:        uint8 [H, W], class index, 255 = no label
    brush, image: names of their tags in the labeling interface
    version:      of the labels, which Label Studio shows
    known:        names that the interface has; others get no stroke; None: all
    returns:      its score is the fraction of the pixels that have a label
    """
    height, width = label.shape
    names = {number: ABSTAIN if number == IGNORE_INDEX else class_names[number] for number in np.unique(label).tolist()}
    strokes = [
        {
            "id": f"value-{number}",
            "type": "brushlabels",
            "from_name": brush,
            "to_name": image,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_stroke(label == number), "brushlabels": [name]},
        }
        for number, name in names.items()
        if known is None or name in known
    ]
    return {"model_version": version, "score": float((label != IGNORE_INDEX).mean()), "result": strokes}


def write_rest(folder: Path, exported: ExportedLabels, rows: Sequence[tuple[int, Any]], facts: dict[str, Any]) -> None:
    """Write the tasks, the labeling interface, and a README."""
    (folder / "tasks.json").write_text(json.dumps([task for _, task in rows]), encoding="utf-8")
    colours = exported.colours.tolist()
    labels = [
        "    <Label value={} background={}/>".format(quoteattr(name), quoteattr("#{:02x}{:02x}{:02x}".format(*colour)))
        for name, colour in [*zip(exported.class_names, colours, strict=True), (ABSTAIN, ABSTAIN_COLOUR)]
    ]
    interface = [
        "<View>",
        f'  <Image name="{TO}" value="${TO}" zoom="true"/>',
        f'  <BrushLabels name="{FROM}" toName="{TO}">',
        *labels,
        "  </BrushLabels>",
        "</View>",
    ]
    (folder / "interface.xml").write_text("\n".join(interface) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render("label_studio.md"), encoding="utf-8")


def brush_stroke(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Label Studio's run-length encoding (rle-pack) of an image that is opaque white in a mask: bytes as numbers.

    A stream of bits: 32 for the number of values, 5 for the bits of a value minus 1, four times 4 for the bits of a
    length minus 1. Each run has a bit that is set if its values are equal, 2 for which of the four lengths it has, its
    length minus 1, and its value.

    mask: bool [H, W]
    """
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values = flat[starts].astype(np.int64) * 0xFF
    lengths = np.diff(starts, append=flat.size) * CHANNELS
    longest = 1 << LENGTHS[-1]
    parts = -(-lengths // longest)  # of a run that is too long
    values, sizes = np.repeat(values, parts), np.full(parts.sum(), longest)
    sizes[np.cumsum(parts) - 1] = lengths - (parts - 1) * longest
    which = np.searchsorted([1 << bits for bits in LENGTHS], sizes)
    bits = np.array(LENGTHS)[which]
    codes = (((1 << 2 | which) << bits | sizes - 1) << WORD) | values
    shifts = np.arange(3 + LENGTHS[-1] + WORD)[::-1]
    is_used = shifts < (3 + bits + WORD)[:, None]
    stream = (codes[:, None] >> shifts & 1)[is_used]
    head = np.array([int(bit) for bit in f"{flat.size * CHANNELS:032b}{HEAD}"])
    packed: list[int] = np.packbits(np.concatenate([head, stream]).astype(np.uint8)).tolist()
    return packed

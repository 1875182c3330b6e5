"""One image five times: as it is, as the annotator sees it, as calibration leaves it, by the student, by its mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.drawing.pictures import Picture, data_uri, describe, fit_label, paint_classes, shrink
from pipeline.palette import Colours

LONGEST_SIDE = 400  # pixels of a picture in the page; shown at about 220, twice that on a sharp screen

PANELS = {
    "raw": "Annotator",
    "calibrated": "Calibrated",
    "student": "Student",
    "truth": "True mask",
}
MISSING = {
    "raw": "no map: the annotator failed",
    "calibrated": "no label: the annotator failed",
    "student": "no prediction",
    "truth": "no mask",
}


class Panel(NamedTuple):
    """One picture with its caption and its content in words; `uri` is None if there is nothing to show."""

    caption: str
    uri: str | None
    words: str


class Example(NamedTuple):
    """The pictures of one image, side by side, all of one size."""

    id: str
    height: int
    width: int
    panels: list[Panel]


def example(
    sample_id: str,
    image: Picture,
    labels: Mapping[str, npt.NDArray[np.generic] | None],
    class_names: Sequence[str],
    colours: Colours,
) -> Example:
    """Draw one example.

    image:   uint8 [H, W, 3] RGB
    labels:  for keys of PANELS a class map [h, w] of any size (NaN or 255 = no class), or None; other keys get no panel
    colours: uint8 [K, 3]
    """
    small = shrink(image, LONGEST_SIDE)
    panels = [Panel("Image", data_uri(small, "webp"), "photograph")]
    for key, caption in PANELS.items():
        if key not in labels:
            continue
        label = labels[key]
        if label is None:
            panels.append(Panel(caption, None, MISSING[key]))
            continue
        painted = paint_classes(small, fit_label(label, small), colours)
        panels.append(Panel(caption, data_uri(painted, "webp"), describe(label, class_names)))
    height, width = small.shape[:2]
    return Example(sample_id, height, width, panels)

"""Examples: an image beside the annotator's classes, the pseudo-labels, the student's prediction and the true mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.drawing.pictures import Picture, data_uri, describe, fit_label, paint_classes, shrink
from pipeline.palette import Colours

LONGEST_SIDE = 400  # pixels; pictures are shown at about 220, on screens with up to two pixels per CSS pixel

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
    """A picture, its caption and its content in words.

    uri: `data:` URI; None if there is no picture, and `words` give the reason
    """

    caption: str
    uri: str | None
    words: str


class Example(NamedTuple):
    """The panels of one image, all of one size in pixels."""

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
    """The panels of one image.

    image:   uint8 [H, W, 3] RGB
    labels:  key of PANELS -> [h, w] of any size, class index, NaN or IGNORE_INDEX = no class; None if missing. A key
             that is absent gets no panel
    colours: uint8 [K, 3] RGB
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

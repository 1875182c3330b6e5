"""The grid, to which all images of a run are resized: its default, and findings about how it fits the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.doctor.findings import Finding
from pipeline.doctor.survey import Survey
from pipeline.settings import Settings

MAX_AREA = 512 * 512  # pixels; SEEM's own resolution
MULTIPLE = 16
MIN_CROP, MAX_CROP = 32, 513
MAX_DISTORTION = 1.5  # of the aspect ratio; above it shapes are clearly distorted
MAX_DISTORTED_FRACTION = 0.1
FAR_LARGER, FAR_SMALLER = 4.0, 0.5  # length in the image divided by length on the grid


def fitting_grid(sizes: npt.NDArray[np.int64]) -> list[int]:
    """Height and width of a grid, multiples of 16: the images' median aspect ratio, and their median area.

    The area is at most 512 x 512.

    sizes: int64 [N, 2], heights and widths of the images, N > 0
    """
    heights, widths = sizes[:, 0].astype(float), sizes[:, 1].astype(float)
    area, ratio = min(float(np.median(heights * widths)), MAX_AREA), float(np.median(widths / heights))
    lengths = (np.sqrt(area / ratio), np.sqrt(area * ratio))
    return [max(MULTIPLE, round(length / MULTIPLE) * MULTIPLE) for length in lengths]


def crop_of(grid: Sequence[int]) -> int:
    """Side of a training crop for images of this size, at most the paper's 513."""
    return max(MIN_CROP, min(MAX_CROP, min(grid) // MIN_CROP * MIN_CROP + 1))


def grid_findings(survey: Survey, settings: Settings) -> list[Finding]:
    """Check whether `data.grid` and `train.crop` fit the shape and the size of the images."""
    sizes, grid = survey.sizes(settings.data.tile), settings.data.grid
    if not len(sizes):
        return []
    height, width = grid
    fitting, where = fitting_grid(sizes), (f"data.grid: [{height}, {width}]",)
    ratio = (sizes[:, 1] / sizes[:, 0]) / (width / height)
    distorted = np.maximum(ratio, 1 / ratio) > MAX_DISTORTION
    findings = []
    if distorted.mean() > MAX_DISTORTED_FRACTION:
        what = (
            f"the grid changes the aspect ratio of {distorted.sum()} of {len(sizes)} images by more than "
            f"{MAX_DISTORTION}, so shapes are distorted"
        )
        fix = f"set data.grid: {fitting}" if fitting != grid else "crop the images to one aspect ratio"
        findings.append(Finding("warning", what, where, fix))
    scale = float(np.median(np.sqrt(sizes.prod(axis=1) / (height * width))))
    if scale > FAR_LARGER:
        what = f"the images are {scale:.1f} times as large as the grid in each direction, so small objects are lost"
        fix = f"set data.tile: {max(grid)}, which cuts images, or a larger data.grid"
        findings.append(Finding("warning", what, where, fix))
    if scale < FAR_SMALLER:
        what = f"the grid is {1 / scale:.1f} times as large as the images in each direction, which adds no detail"
        findings.append(Finding("warning", what, where, f"set data.grid: {fitting}"))
    short, largest_scale = float(np.median(sizes.min(axis=1))), settings.train.scale[1]
    if settings.train.crop > short * largest_scale:
        what = f"crops are larger than the images (short side {short:g}) at any scale, so they are padded"
        fix = f"set train.crop to {crop_of(fitting)}, or increase train.scale"
        findings.append(Finding("warning", what, (f"train.crop: {settings.train.crop}",), fix))
    return [*findings, Finding("note", f"images are {_range(sizes)}")]


def _range(sizes: npt.NDArray[np.int64]) -> str:
    smallest, largest = (f"{h} x {w}" for h, w in (sizes.min(axis=0), sizes.max(axis=0)))
    return f"{smallest if smallest == largest else f'{smallest} to {largest}'} (height x width)"

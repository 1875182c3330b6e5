"""Memory of the machine or the container, and how much of it a grid needs."""

from __future__ import annotations

import math
import os
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.settings import Settings

CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
BYTES_PER_COLOUR_PIXEL = 3  # uint8
BYTES_PER_CLASS = 8  # of a pixel: its map in float32, resized, and as it is encoded
BYTES_PER_PIXEL = 16  # mask, score and planes of an image whose maps are read in strips
MULTIPLE = 16


def total_memory() -> int:
    """Bytes of memory that this process can use at most."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such limit: the file is missing, or holds `max`
            continue
    return min(limits)


def grid_bytes(settings: Settings) -> int:
    """Bytes that a stage needs at least for the images of one call of the annotator, and for the maps of one image."""
    height, width = settings.data.grid
    images = BYTES_PER_COLOUR_PIXEL * settings.annotate.batch_size
    is_at_grid = settings.annotate.resolution == "grid"
    return height * width * (images + (BYTES_PER_CLASS * settings.data.num_classes if is_at_grid else BYTES_PER_PIXEL))


def refuse_large_grid(settings: Settings) -> None:
    """ConfigError if `data.grid` needs more memory than this machine or container has."""
    problem = grid_problem(settings)
    if problem is not None:
        raise ConfigError(problem)


def grid_problem(settings: Settings, total: int | None = None) -> str | None:
    """A message if `data.grid` needs more memory than there is.

    total: bytes of memory; default: of this machine or container
    """
    needed, total = grid_bytes(settings), total_memory() if total is None else total
    if needed <= total:
        return None
    largest = [max(int(side * math.sqrt(total / needed)) // MULTIPLE, 1) * MULTIPLE for side in settings.data.grid]
    return (
        f"data.grid {settings.data.grid} needs at least {needed / 1e9:.0f} GB of memory for each image, but there are "
        f"{total / 1e9:.1f} GB; set data.grid to less than {largest}, or annotate.batch_size (now "
        f"{settings.annotate.batch_size}) to 1"
    )

"""The ends of mask names after the stems of their images, such as `_mask.png`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path

from pipeline.files import image_id, normal


def common_ending(files: Sequence[Path], images: Container[str]) -> str | None:
    """The most common end of mask names after an image's stem: `a_mask.png` with an image `a` gives `_mask.png`."""
    endings = Counter(ending for path in files if (ending := ending_of(path, images)) is not None)
    return endings.most_common(1)[0][0] if endings else None


def ending_of(path: Path, images: Container[str]) -> str | None:
    """What follows the longest stem of an image, other than its own, in the name of a file; None without one.

    It does not begin with a digit: `a10` is no name of a mask of `a1`.
    """
    own = image_id(path)
    lengths = [length for length in range(len(own) - 1, 0, -1) if not own[length].isdigit()]
    stem = next((own[:length] for length in lengths if own[:length] in images), None)
    return None if stem is None else normal(path.name)[len(stem) :]

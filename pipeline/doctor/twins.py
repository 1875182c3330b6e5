"""Findings about images that are there twice, or nearly, within a split or across two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import SPLITS
from pipeline.doctor.findings import Finding
from pipeline.doctor.survey import ImageLook, Look, Survey

MAX_DISTANCE = 4  # of 64 bits; pictures of different things differ in about 32
ROWS = 256  # hashes compared with all others at a time
LEAK = "the student is measured on pictures that it has learnt from"
# splits of the two images -> what that does, and the fix; the other pairs of splits are a fact only
HARM = {
    ("labeled", "val"): (LEAK, "take one of each pair out of data.splits.val or labeled"),
    ("unlabeled", "val"): (LEAK, "take one of each pair out of data.splits.val, or remove the unlabeled one"),
    ("labeled", "labeled"): ("thresholds take labeled images for independent", "keep one of each pair"),
}


class Twin(NamedTuple):
    """An image, and the one among others that looks most like it."""

    image: int
    other: int
    distance: int
    """Bits in which their perceptual hashes differ."""


def twin_findings(survey: Survey) -> list[Finding]:
    """A finding for each pair of splits: images of the second that look like one of the first."""
    by_split = {split: [look for look in survey.looks if look.sample.split == split] for split in SPLITS}
    found = (
        _finding((first, second), by_split[first], by_split[second])
        for first, second in combinations_with_replacement(SPLITS, 2)
    )
    return [finding for finding in found if finding is not None]


def find_twins(images: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64] | None = None) -> Iterator[Twin]:
    """For every image the nearest of the others, if it is near enough; others None: the earlier ones of the images.

    images, others: uint64 [N], uint64 [M] perceptual hashes
    """
    for start in range(0, len(images), ROWS):
        rows = images[start : start + ROWS]
        if others is None:
            distances = hash_distances(rows, images[: start + len(rows)]).astype(np.int16)
            later = np.arange(start + len(rows)) >= np.arange(start, start + len(rows))[:, np.newaxis]
            distances[later] = np.iinfo(np.int16).max
        else:
            distances = hash_distances(rows, others).astype(np.int16)
        if distances.size:
            nearest = distances.argmin(axis=1)
            for row in np.flatnonzero(distances.min(axis=1) <= MAX_DISTANCE).tolist():
                yield Twin(start + row, int(nearest[row]), int(distances[row, nearest[row]]))


def hash_distances(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """uint8 [N, M]: bits in which each of uint64 [N] differs from each of uint64 [M]."""
    distances: npt.NDArray[np.uint8] = np.bitwise_count(first[:, np.newaxis] ^ second)
    return distances


def _finding(splits: tuple[str, str], firsts: Sequence[Look], seconds: Sequence[Look]) -> Finding | None:
    is_within = splits[0] == splits[1]
    others, images = _readable(firsts), _readable(seconds)
    twins = list(find_twins(_hashes(images), None if is_within else _hashes(others)))
    if not twins:
        return None
    pairs = [(others[twin.other], images[twin.image]) for twin in twins]
    where = tuple(f"{a[0]} {'=' if a[1].digest == b[1].digest else '~'} {b[0]}" for a, b in pairs)
    beside = "an earlier one" if is_within else f"a {splits[0]} one"
    verb = "looks" if len(twins) == 1 else "look"
    what = f"{len(twins)} of {len(images)} {splits[1]} images {verb} like {beside} (= equal, ~ nearly)"
    if splits not in HARM:
        return Finding("note", what, where)
    harm, fix = HARM[splits]
    return Finding("warning", f"{what}, but {harm}" if is_within else f"{what}: {harm}", where, fix)


def _readable(looks: Sequence[Look]) -> list[tuple[str, ImageLook]]:
    """Ids and what the images are, of those that could be read."""
    return [(look.sample.id, look.image) for look in looks if look.image is not None]


def _hashes(images: Sequence[tuple[str, ImageLook]]) -> npt.NDArray[np.uint64]:
    return np.array([image.perceptual_hash for _, image in images], np.uint64)

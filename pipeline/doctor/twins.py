"""Findings about duplicate and near-duplicate images, within a split or in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import SPLITS
from pipeline.doctor.findings import Finding
from pipeline.doctor.survey import ImageFacts, SampleFacts, Survey

MAX_DISTANCE = 4  # of 64 bits; unrelated images differ in about 32
ROWS = 256  # hashes compared with all others at a time
LEAK = "the student is evaluated on images that it was trained on"
# splits of the two images -> the harm, and the fix; other pairs of splits are reported as notes
HARM = {
    ("labeled", "val"): (LEAK, "remove one of each pair from data.splits.val or data.splits.labeled"),
    ("unlabeled", "val"): (LEAK, "remove one of each pair from data.splits.val, or remove the unlabeled image"),
    ("labeled", "labeled"): ("calibration assumes independent labeled images", "keep one of each pair"),
}


class Twin(NamedTuple):
    """An image, and the most similar one among the others."""

    image: int
    other: int
    distance: int
    """Number of bits in which their perceptual hashes differ."""


def twin_findings(survey: Survey) -> list[Finding]:
    """One finding per pair of splits: images of the second split that are similar to one of the first."""
    by_split = {split: [facts for facts in survey.samples if facts.sample.split == split] for split in SPLITS}
    findings = (
        _finding((first, second), by_split[first], by_split[second])
        for first, second in combinations_with_replacement(SPLITS, 2)
    )
    return [finding for finding in findings if finding is not None]


def find_twins(images: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64] | None = None) -> Iterator[Twin]:
    """For every image the nearest of the others, if at most MAX_DISTANCE bits differ.

    images: uint64 [N], perceptual hashes
    others: uint64 [M], perceptual hashes; None: each image is compared with the images before it
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
    """Number of differing bits of each pair of hashes: uint64 [N], uint64 [M] -> uint8 [N, M]."""
    distances: npt.NDArray[np.uint8] = np.bitwise_count(first[:, np.newaxis] ^ second)
    return distances


def _finding(splits: tuple[str, str], firsts: Sequence[SampleFacts], seconds: Sequence[SampleFacts]) -> Finding | None:
    is_within = splits[0] == splits[1]
    others, images = _readable(firsts), _readable(seconds)
    twins = list(find_twins(_hashes(images), None if is_within else _hashes(others)))
    if not twins:
        return None
    pairs = [(others[twin.other], images[twin.image]) for twin in twins]
    where = tuple(f"{a[0]} {'=' if a[1].digest == b[1].digest else '~'} {b[0]}" for a, b in pairs)
    twin_of = f"another {splits[0]} image" if is_within else f"a {splits[0]} image"
    verb = "is" if len(twins) == 1 else "are"
    what = f"{len(twins)} of {len(images)} {splits[1]} images {verb} equal (=) or similar (~) to {twin_of}"
    if splits not in HARM:
        return Finding("note", what, where)
    harm, fix = HARM[splits]
    return Finding("warning", f"{what}, but {harm}" if is_within else f"{what}: {harm}", where, fix)


def _readable(samples: Sequence[SampleFacts]) -> list[tuple[str, ImageFacts]]:
    """Ids and facts of the readable images."""
    return [(facts.sample.id, facts.image) for facts in samples if facts.image is not None]


def _hashes(images: Sequence[tuple[str, ImageFacts]]) -> npt.NDArray[np.uint64]:
    return np.array([image.perceptual_hash for _, image in images], np.uint64)

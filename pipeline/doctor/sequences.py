"""Findings about groups of images: whether images with consecutive numbers look alike, as frames of a video do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.doctor.findings import Finding, from_message
from pipeline.doctor.survey import Survey
from pipeline.settings import DataSettings
from pipeline.sources.groups import FEW, group_warnings

NUMBERED = re.compile(r"(.*?)(\d+)")
SEQUENCE = r"^(.*?)\d+$"  # all images whose ids differ in the number at the end only
MOST_DIGITS = 4  # of the numbers in a block
MIN_IMAGES = 20
SHIFTS = (2, 3, 5)  # images that are compared with those one half, one third and one fifth of the list further on
CLOSEST = 5  # per cent of other pairs


def group_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """With `data.groups`, what they make doubtful; without, a proposal if neighbours are frames of a sequence."""
    samples = [facts.sample for facts in survey.samples]
    if data.groups is not None:
        return [from_message(warning, "warning") for warning in group_warnings(samples)]
    hashes = {facts.sample.id: facts.image.perceptual_hash for facts in survey.samples if facts.image is not None}
    numbered = {i: match for i in hashes if (match := NUMBERED.fullmatch(i)) is not None}
    order = sorted(numbered, key=lambda i: (numbered[i][1], int(numbered[i][2])))
    if len(order) < max(MIN_IMAGES, len(hashes) / 2):
        return []
    of_order = np.array([hashes[i] for i in order], np.uint64)
    is_next = np.array([numbered[a][1] == numbered[b][1] for a, b in pairwise(order)])
    neighbours, others = neighbour_distances(of_order, is_next)
    if not neighbours.size or np.median(neighbours) >= np.percentile(others, CLOSEST):
        return []
    labeled = [sample.id for sample in samples if sample.split == "labeled"]
    proposals = list(_proposals(labeled, order))
    if not proposals:
        return []
    what = (
        f"images with consecutive numbers look alike (their hashes differ in {np.median(neighbours):.0f} bits, those "
        f"of other pairs in {np.median(others):.0f}), as frames of a video do, so intervals and guarantees that count "
        "images promise too much"
    )
    fix = f"add to the section data of the run file: {', or '.join(proposals)}"
    return [Finding("warning", what, fix=fix)]


def neighbour_distances(
    hashes: npt.NDArray[np.uint64], is_next: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Numbers of differing bits of neighbours, and of images that are far from each other in the list.

    hashes:  uint64 [N], in the order of the list
    is_next: bool [N - 1], whether an image and the following one are neighbours
    """
    neighbours = np.bitwise_count(hashes[:-1] ^ hashes[1:])[is_next]
    others = [np.bitwise_count(hashes ^ np.roll(hashes, len(hashes) // shift)) for shift in SHIFTS]
    return neighbours, np.concatenate(others)


def _proposals(labeled: Sequence[str], ids: Sequence[str]) -> Iterator[str]:
    """Lines for the run file: one group per sequence and, if there are few, the largest blocks that are not few."""
    num_sequences = _num_groups(SEQUENCE, labeled)
    if num_sequences > 1:
        yield f"groups: '{SEQUENCE}' ({num_sequences} groups of the {len(labeled)} labeled images)"
    if num_sequences >= FEW:
        return
    for digits in range(MOST_DIGITS, 0, -1):
        pattern = rf"^(.*)\d{{{digits}}}$"
        num_blocks = _num_groups(pattern, labeled)
        if num_blocks >= FEW and all(re.search(pattern, i) for i in ids):
            yield (
                f"groups: '{pattern}' (blocks of {10**digits} numbers, {num_blocks} groups; neighbouring blocks are "
                "not quite independent)"
            )
            return


def _num_groups(pattern: str, ids: Sequence[str]) -> int:
    return len({match[1] for i in ids if (match := re.search(pattern, i)) is not None})

"""The group of each image: images of one video, patient or scene, by `data.groups`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.datasets import SPLITS, Sample
from pipeline.errors import DatasetError
from pipeline.files import existing, normal
from pipeline.settings import DataSettings, is_group_list
from pipeline.sources.ids import ImageIds
from pipeline.sources.image_checks import shortened
from pipeline.text import is_one_line, read_lines

FEW = 10  # groups; the 95 % bootstrap interval of a mean of so many contains the truth in some 90 %
SEPARATORS = "\t;,"  # the first one that the first line contains separates the columns
HEADER = ("id", "group")


def with_groups(samples: Sequence[Sample], data: DataSettings) -> tuple[list[Sample], list[str]]:
    """The samples with their groups, and messages on images without one; as they are without `data.groups`."""
    if data.groups is None:
        return list(samples), []
    try:
        group_of = groups_of([sample.id for sample in samples], data)
    except DatasetError as error:
        return list(samples), [str(error)]
    without = [sample.id for sample in samples if sample.id not in group_of]
    if without:
        return list(samples), [_without_group(without, data.groups)]
    return [replace(sample, group=group_of[sample.id]) for sample in samples], []


def groups_of(ids: Sequence[str], data: DataSettings) -> dict[str, str]:
    """Id -> group, without ids that have none; {} without `data.groups`. raises: DatasetError for an unusable list"""
    if data.groups is None:
        return {}
    if not is_group_list(data.groups):
        return _matched(ids, data.groups)
    images = ImageIds(ids)
    return {images.resolve(name): group for name, group in _listed(data, data.groups).items()}


def group_warnings(samples: Sequence[Sample]) -> list[str]:
    """Messages on what groups make impossible or doubtful; [] without groups."""
    if not any(sample.group for sample in samples):
        return []
    groups = {split: [sample.group or sample.id for sample in samples if sample.split == split] for split in SPLITS}
    labeled = set(groups["labeled"])
    found = []
    if len(labeled) == 1:
        found.append(
            f"ALL {len(groups['labeled'])} LABELED IMAGES ARE OF ONE GROUP, {min(labeled)}: nothing can be held out, "
            "so labels are not compared (rule auto takes the annotator's own), and pseudolabel.guarantee is refused; "
            "label images of other groups, or set data.groups to smaller ones"
        )
    elif 1 < len(labeled) < FEW:
        found.append(
            f"the {len(groups['labeled'])} labeled images are of {len(labeled)} groups only: intervals from fewer than "
            f"{FEW} groups are too narrow, and a guarantee needs more; label images of other groups"
        )
    both = sorted({*groups["labeled"], *groups["unlabeled"]} & {*groups["val"]})
    if both:
        found.append(
            f"{len(both)} of {len({*groups['val']})} groups of val images have training images, too "
            f"({shortened(both)}), so the student's mIoU is not that on new groups; list val images of other groups in "
            "data.splits.val"
        )
    return found


def _without_group(ids: Sequence[str], groups: str) -> str:
    what = f"{'image' if len(ids) == 1 else 'images'} {shortened(ids)}"
    if is_group_list(groups):
        return f"data.groups {groups} has no line for {what}; add a line with the id and its group for each"
    return (
        f"data.groups {groups!r} finds no group in the id of {what}; change the expression, or list ids and groups in "
        "a CSV file, and set data.groups to its name"
    )


def _matched(ids: Sequence[str], pattern: str) -> dict[str, str]:
    """Id -> text of the first capture group, else of the whole match; without ids that give no text."""
    found = {sample_id: re.search(pattern, sample_id) for sample_id in ids}
    texts = {i: match[1 if match.re.groups else 0] for i, match in found.items() if match is not None}
    return {i: text for i, text in texts.items() if text}


def _listed(data: DataSettings, name: str) -> dict[str, str]:
    """Id -> group of a CSV file with two columns, which may start with a line `id,group`.

    raises: DatasetError for a file that cannot be read, a line without two columns, or an image in two groups
    """
    path = existing(Path(data.root) / name)
    if not path.is_file():
        raise DatasetError(f"no list of groups {path}; correct data.groups")
    lines = read_lines(path)
    separator = next((one for one in SEPARATORS if lines and one in lines[0]), ",")
    group_of: dict[str, str] = {}
    for number, cells in enumerate(csv.reader(lines, delimiter=separator, skipinitialspace=True), 1):
        words = [cell.strip() for cell in cells]
        if not any(words) or (number == 1 and tuple(word.lower() for word in words) == HEADER):
            continue
        if len(words) != len(HEADER) or not all(words) or not all(map(is_one_line, words)):
            raise DatasetError(
                f"{path} line {number}: expected an image id and its group, separated by {separator!r}, got "
                f"{lines[number - 1]!r}; write one image per line"
            )
        sample_id, group = normal(words[0]), words[1]
        if group_of.setdefault(sample_id, group) != group:
            raise DatasetError(
                f"{path} line {number}: {sample_id} is in the groups {group_of[sample_id]} and {group}; remove one of "
                "the lines"
            )
    return group_of

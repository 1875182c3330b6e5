"""Masks in another coding than the settings expect: ADE20K shifted by one, Cityscapes' label ids and train ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.config import DataSettings

NOTHING = 255
MASKS_TO_JUDGE = 100


class Coding(NamedTuple):
    """A way to write a data set's classes into masks."""

    name: str
    own_values: frozenset[int]
    """Values that no mask of the other coding has."""
    cure: str
    """What to write in the run file to read such masks."""


class Codings(NamedTuple):
    original: Coding
    shifted: Coding
    """The one whose 255 means nothing."""


# ADE20K, official: 0 is "other", 1 to 150 are classes. Shifted, as several projects distribute it: 0 to 149, and 255.
# Both have 1 to 149, so one mask alone can look like either; only 150 ("flag") and 255 tell. In val, which every run
# checks whole, they occur: papers report an IoU of every class. Files that were shifted twice have 0 to 148 and 255,
# which is legal, and cannot be told; ours are shifted once, by the lookup of `data.classes`.
CODINGS = {
    "ade20k": Codings(
        Coding(
            "official (0 is other, 1 to 150 are classes)",
            frozenset({150}),
            "values 1 to 150 and ignore_values: [0], as in config/ade20k.yaml",
        ),
        Coding(
            "shifted by one (0 to 149 are classes, 255 is other)",
            frozenset({NOTHING}),
            "no values (class k is k) and ignore_values: [255]",
        ),
    ),
    "cityscapes": Codings(
        Coding("labelIds", frozenset(range(19, 34)), "the values of config/cityscapes.yaml"),
        Coding("labelTrainIds", frozenset({NOTHING}), "the values of config/cityscapes_trainids.yaml"),
    ),
}


def misreading(masks: Iterable[frozenset[int]], data: DataSettings) -> str | None:
    """What betrays that the masks are of the coding that the settings do not expect; None if nothing does.

    masks: the values of every checked mask, as stored
    """
    codings = CODINGS.get(data.layout)
    if codings is None:
        return None
    masks = list(masks)
    found = frozenset().union(*masks)
    expected, other = codings if NOTHING not in data.ignore_values else (codings.shifted, codings.original)
    telling = sorted(found & other.own_values)
    if telling:
        return _message(f"the masks have the value {telling[0]}", expected, other, data)
    # hardly an image has no pixel that is nothing, so many masks without any are not what they should be
    if expected is codings.shifted and len(masks) >= MASKS_TO_JUDGE and NOTHING not in found:
        return _message(f"none of {len(masks)} masks has the value {NOTHING}", expected, other, data)
    return None


def _message(found: str, expected: Coding, other: Coding, data: DataSettings) -> str:
    return (
        f"{found}: they are {other.name}, but the settings expect {expected.name}, so every class would be read as "
        f"another; get masks in {data.root} that fit the settings, or write for data.classes {other.cure}"
    )

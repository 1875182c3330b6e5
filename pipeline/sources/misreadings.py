"""Masks in another coding than the settings expect.

`misreading` knows the published codings (ADE20K shifted by one, Cityscapes' label ids and train ids) and is always
right; `suspicions` looks at masks of any origin, for people to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.settings import DataSettings

NOTHING = 255
WRAPPED = NOTHING - 1  # what 255 became in a shift by one
MASKS_TO_JUDGE = 100


class Coding(NamedTuple):
    """A way to write a data set's classes into masks."""

    name: str
    own_values: frozenset[int]
    """Values that no mask of the other coding has."""
    fix: str
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
        f"another; get masks in {data.root} that fit the settings, or write for data.classes {other.fix}"
    )


class Suspicion(NamedTuple):
    """A mistake that the values of all masks together hint at."""

    is_certain: bool
    """False where another, harmless explanation exists."""
    what: str
    fix: str


def suspicions(masks: Iterable[frozenset[int]], data: DataSettings) -> list[Suspicion]:
    """Mistakes in which data of any origin are read: 0/255 masks, classes counted from another number, double shifts.

    masks: the values of every checked mask, as stored
    """
    found = frozenset().union(*masks)
    return list(_suspicions(found, data)) if found else []


def _suspicions(found: frozenset[int], data: DataSettings) -> Iterator[Suspicion]:
    ignored, named = set(data.ignore_values), {value for values in data.mask_values for value in values}
    unnamed, last, num = found - named - ignored, max(named), len(named)
    if found == {0, NOTHING} and NOTHING in ignored:
        yield Suspicion(
            True,
            f"the masks hold 0 and {NOTHING} only, and {NOTHING} is ignored: what they mark is never learnt",
            f"give its class values: [{NOTHING}] and set data.ignore_values: []",
        )
    elif WRAPPED in unnamed and unnamed <= {WRAPPED - 1, WRAPPED, NOTHING}:
        times = "twice" if WRAPPED - 1 in unnamed else "once"
        yield Suspicion(
            True,
            f"the masks hold {min(unnamed)}, as after a shift by one, {times}, that {NOTHING} did not survive",
            "take the masks as they were before, and list the classes' values there in data.classes",
        )
    elif named == set(range(num)) and unnamed == {num}:
        yield Suspicion(
            True,
            f"the masks count classes from 1 to {num}, the settings from 0 to {last}: every class is read as another",
            "give each class its own number in values, and put 0 into data.ignore_values or give it a background class",
        )
    elif named == set(range(1, num + 1)) and last not in found and {*range(last)} <= found:
        yield Suspicion(
            NOTHING in unnamed,
            f"the masks count classes from 0 to {last - 1}, as after a shift by one (reduce zero label); the settings "
            f"count from 1 to {last}: every class is read as another",
            "list data.classes without values and set data.ignore_values: [255], or get the masks as they were before",
        )
    elif named == set(range(num)) and num > 2 and last not in found and {*range(last), NOTHING} <= found:
        yield Suspicion(
            False,
            f"every value but the last, {last} ({_class_of(last, data)}), occurs, and {NOTHING} does: so look masks "
            "that were shifted by one (reduce zero label) once too often",
            "look at a mask beside its image; if every class is its neighbour, get the masks as they were before",
        )


def _class_of(value: int, data: DataSettings) -> str:
    return next(name for name, values in zip(data.class_names, data.mask_values, strict=True) if value in values)

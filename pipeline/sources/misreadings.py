"""Detects masks whose coding differs from the one that the settings expect.

`misreading` compares with the published codings (ADE20K, official or shifted by one; Cityscapes' label ids and train
ids) and has no false alarms. `suspicions` checks masks of any origin; a user has to judge the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.settings import DataSettings

WRAPPED = IGNORE_INDEX - 1  # 255 after a shift by one
MASKS_TO_JUDGE = 100


class Coding(NamedTuple):
    """A mapping from the classes of a data set to mask values."""

    name: str
    distinct_values: frozenset[int]
    """Values that no mask of the other coding has."""
    fix: str
    """Settings to write in the run file to read such masks."""


class Codings(NamedTuple):
    """The two published codings of a data set."""

    original: Coding
    shifted: Coding
    """The coding in which 255 is void."""


# ADE20K, official: 0 is "other", 1 to 150 are classes. Shifted, as several projects distribute it: 0 to 149, and 255.
# Both have 1 to 149, so a single mask may fit both; only 150 ("flag") and 255 distinguish them. Both values occur in
# val, whose masks every run checks: papers report an IoU for every class. Files that were shifted twice have 0 to 148
# and 255. These values are valid, so a double shift cannot be detected here.
CODINGS = {
    "ade20k": Codings(
        Coding(
            "official (0 is other, 1 to 150 are classes)",
            frozenset({150}),
            "values 1 to 150 and ignore_values: [0], as in config/ade20k.yaml",
        ),
        Coding(
            "shifted by one (0 to 149 are classes, 255 is other)",
            frozenset({IGNORE_INDEX}),
            "no values (class k is k) and ignore_values: [255]",
        ),
    ),
    "cityscapes": Codings(
        Coding("labelIds", frozenset(range(19, 34)), "the values of config/cityscapes.yaml"),
        Coding("labelTrainIds", frozenset({IGNORE_INDEX}), "the values of config/cityscapes_trainids.yaml"),
    ),
}


def misreading(masks: Iterable[frozenset[int]], data: DataSettings) -> str | None:
    """A message if the masks have the coding that the settings do not expect; None otherwise.

    masks: the values of every checked mask, as stored
    """
    codings = CODINGS.get(data.layout)
    if codings is None:
        return None
    masks = list(masks)
    present = frozenset().union(*masks)
    expected, actual = codings if IGNORE_INDEX not in data.ignore_values else (codings.shifted, codings.original)
    distinct = sorted(present & actual.distinct_values)
    if distinct:
        return _message(f"the masks have the value {distinct[0]}", expected, actual, data)
    # almost every image has some void pixels, so many masks without any have another coding
    if expected is codings.shifted and len(masks) >= MASKS_TO_JUDGE and IGNORE_INDEX not in present:
        return _message(f"none of {len(masks)} masks has the value {IGNORE_INDEX}", expected, actual, data)
    return None


def _message(evidence: str, expected: Coding, actual: Coding, data: DataSettings) -> str:
    return (
        f"{evidence}: their coding is {actual.name}, but the settings expect {expected.name}, so every class would be "
        f"read as another; put masks into {data.root} that fit the settings, or write data.classes with {actual.fix}"
    )


class Suspicion(NamedTuple):
    """A probable mistake, judged by the values of all masks together."""

    is_certain: bool
    """False if a harmless explanation is possible."""
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


def certain_suspicions(masks: Iterable[frozenset[int]], data: DataSettings) -> list[Suspicion]:
    """Mistakes without a harmless explanation; [] if values without a class are ignored on purpose.

    masks: as `suspicions`
    """
    if data.unknown_values == "ignore":
        return []
    return [suspicion for suspicion in suspicions(masks, data) if suspicion.is_certain]


def suspicions(masks: Iterable[frozenset[int]], data: DataSettings) -> list[Suspicion]:
    """Probable mistakes: masks of 0 and 255 only, classes counted from another number, repeated shifts.

    masks: the values of every checked mask, as stored
    """
    present = frozenset().union(*masks)
    return list(_suspicions(present, data)) if present else []


def _suspicions(present: frozenset[int], data: DataSettings) -> Iterator[Suspicion]:
    """present: all values of the masks."""
    ignored, listed = set(data.ignore_values), {value for values in data.mask_values for value in values}
    unlisted, last, num = present - listed - ignored, max(listed), len(listed)
    if present == {0, IGNORE_INDEX} and IGNORE_INDEX in ignored:
        yield Suspicion(
            True,
            f"the masks contain 0 and {IGNORE_INDEX} only, and {IGNORE_INDEX} is ignored: the marked class is never "
            "learned",
            f"give its class values: [{IGNORE_INDEX}] and set data.ignore_values: []",
        )
    elif WRAPPED in unlisted and unlisted <= {WRAPPED - 1, WRAPPED, IGNORE_INDEX}:
        times = "two shifts" if WRAPPED - 1 in unlisted else "a shift"
        yield Suspicion(
            True,
            f"the masks contain {min(unlisted)}, which is probably {IGNORE_INDEX} after {times} by one",
            "use the original masks, and list their values in data.classes",
        )
    elif listed == set(range(num)) and unlisted == {num}:
        yield Suspicion(
            True,
            f"the masks count classes from 1 to {num}, the settings from 0 to {last}: every class is read as another",
            "give each class its own number in values, and add 0 to data.ignore_values or to a background class",
        )
    elif listed == set(range(1, num + 1)) and last not in present and {*range(last)} <= present:
        yield Suspicion(
            IGNORE_INDEX in unlisted,
            f"the masks count classes from 0 to {last - 1}, as after a shift by one (reduce zero label); the settings "
            f"count from 1 to {last}: every class is read as another",
            "list data.classes without values and set data.ignore_values: [255], or use the original masks",
        )
    elif listed == set(range(num)) and num > 2 and last not in present and {*range(last), IGNORE_INDEX} <= present:
        yield Suspicion(
            False,
            f"all class values occur except the last, {last} ({_class_of(last, data)}), and {IGNORE_INDEX} occurs: the "
            "masks were perhaps shifted by one (reduce zero label) once too often",
            "compare a mask with its image; if each class has the value of the next one, use the original masks",
        )


def _class_of(value: int, data: DataSettings) -> str:
    return next(name for name, values in zip(data.class_names, data.mask_values, strict=True) if value in values)

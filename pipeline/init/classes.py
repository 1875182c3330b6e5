"""Derives the classes of a run from the values in masks, and from a list of names if there is one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.doctor.prompts import spelled_out
from pipeline.errors import DatasetError
from pipeline.files import normal
from pipeline.settings import did_you_mean
from pipeline.sources.annotations.annotated import VOID_NAMES
from pipeline.text import read_lines

NO_BACKGROUND = "none"
BACKGROUND_NAMES = ("background", "bg", "backgr", "_background_")
MAX_UNNAMED = 64  # more different values are probably not classes, unless a list names them
ROBOFLOW_HEADER = re.compile(r"pixel value\s*,\s*class", re.IGNORECASE)
ROBOFLOW_LINE = re.compile(r"(\d+)\s*,\s*(.+)")
"""The `_classes.csv` beside the masks that Roboflow exports: value, then name."""


class ListedClass(NamedTuple):
    """A line of the class list."""

    name: str
    prompts: list[str]
    values: list[int]
    """Mask values. Empty: the number of the line in the list."""


class ClassPlan(NamedTuple):
    """The classes of the run file."""

    classes: list[dict[str, Any]]
    """Name, prompts (if they differ from the name) and values of each class."""
    background: str | None
    ignore_values: list[int]
    remarks: list[str]
    """Choices that the user should check."""


def read_class_list(path: Path, labels: Mapping[str, int] | None = None) -> list[ListedClass]:
    """Read a class list: one class per line, in the order of the mask values.

    A line is `NAME` or `NAME: VALUE, ...`, and may end with `= PROMPT, ...`. Empty lines and comments after # are
    skipped. For annotations, the values are names of labels, by default the name of the class itself.

    labels: value of each label of annotations, by its name, and 0 for names of the background; the class list must
            name every label
    raises: DatasetError for a file that is missing, no text, or malformed
    """
    lines = [text for line in read_lines(path) if (text := line.partition("#")[0].strip())]
    if lines and ROBOFLOW_HEADER.fullmatch(lines[0]):
        lines = [ROBOFLOW_LINE.sub(r"\2: \1", line) for line in lines[1:]]
    classes = [_listed_class(line, path, labels) for line in lines]
    if not classes:
        raise DatasetError(f"--classes {path} is empty; write one class per line, in the order of the mask values")
    twice = [name for name, number in Counter(c.name for c in classes).items() if number > 1]
    if twice:
        raise DatasetError(
            f"--classes {path} has {twice[0]!r} twice; write all values of a class on one line: {twice[0]}: 1, 2"
        )
    if labels is not None:
        _refuse_other_labels(classes, labels, path)
    return classes


def _listed_class(line: str, path: Path, labels: Mapping[str, int] | None) -> ListedClass:
    head, _, prompts = (piece.strip() for piece in line.partition("="))
    name, colon, values = (piece.strip() for piece in head.partition(":"))
    words = [word.strip() for word in values.split(",")] if colon else []
    is_number = re.compile(r"\d+").fullmatch if labels is None else bool
    if not name or not all(map(is_number, words)):
        value = "VALUE" if labels is None else "LABEL"
        raise DatasetError(
            f"--classes {path}: {line!r} is not a class; write NAME, NAME: {value} or NAME = PROMPT, PROMPT"
        )
    prompt_list = [prompt.strip() for prompt in prompts.split(",") if prompt.strip()]
    if labels is None:
        return ListedClass(name, prompt_list, [int(word) for word in words])
    return ListedClass(name, prompt_list, [_value_of(normal(label), labels, path) for label in words or [name]])


def _value_of(label: str, labels: Mapping[str, int], path: Path) -> int:
    if label not in labels:
        drawn = [name for name, value in labels.items() if value]
        raise DatasetError(
            f"--classes {path} has {label!r}, which is no label of the annotations{did_you_mean(label, drawn)}; use "
            f"NAME or NAME: LABEL with one of {', '.join(drawn)}"
        )
    return labels[label]


def _refuse_other_labels(classes: Sequence[ListedClass], labels: Mapping[str, int], path: Path) -> None:
    """DatasetError for labels that no line of the class list names, or that two lines name."""
    number = Counter(value for c in classes for value in c.values)
    twice = [label for label, value in labels.items() if number[value] > 1]
    if twice:
        raise DatasetError(f"--classes {path} has the label {twice[0]!r} in two lines; remove one of them")
    without = [label for label, value in labels.items() if value and not number[value]]
    if without:
        raise DatasetError(
            f"the annotations have labels that --classes {path} does not name: {', '.join(without)}; add one line for "
            f"each: {without[0]} for a class, or void: {without[0]}"
        )


def plan_classes(
    masks: Iterable[frozenset[int]], listed: Sequence[ListedClass] | None, background: str | None
) -> ClassPlan:
    """Choose classes, background and void values.

    masks:      the values of each mask
    listed:     the class list, if there is one
    background: name of a class, `none`, or None: the class that is called background (without a list, value 0)
    raises:     DatasetError for values without a name, too many values, or a background that is no class
    """
    masks = list(masks)
    present = frozenset().union(*masks)
    numbered = _from_values(present, background) if listed is None else _from_list(present, listed, background)
    classes, void, remarks = numbered
    with_class = {value for c in classes for value in c.values}
    without_name = sorted(present - with_class - set(void) - {IGNORE_INDEX})
    if without_name:
        shown = ", ".join(map(str, without_name))
        raise DatasetError(
            f"the masks have values that --classes does not name: {shown}; add one line for each to the class list: "
            f"NAME: {without_name[0]} for a class, or void: {without_name[0]}"
        )
    if len(classes) < 2:
        raise DatasetError(
            f"a run needs at least two classes, the background included, but the masks give {len(classes)} "
            f"({', '.join(c.name for c in classes) or 'none'}; mask values: {sorted(present)}); name more classes with "
            "--classes, or the background with --background"
        )
    without_mask = [c.name for c in classes if not present & set(c.values)]
    if without_mask:
        remarks.append(f"in no mask: {', '.join(without_mask)}")
    ignore = sorted({*void, *([] if IGNORE_INDEX in with_class else [IGNORE_INDEX])})
    return ClassPlan([_entry(c) for c in classes], _background(classes, background), ignore, remarks)


Numbered = tuple[list[ListedClass], list[int], list[str]]  # classes with values, void values, remarks


def _from_values(present: frozenset[int], background: str | None) -> Numbered:
    """One class with a placeholder name per value. Value 0 is the background, unless `background` is none."""
    values = sorted(present - {IGNORE_INDEX}) if not is_binary(present) else [0, IGNORE_INDEX]
    if len(values) > MAX_UNNAMED:
        raise DatasetError(
            f"the masks have {len(values)} different values, more than {MAX_UNNAMED}: they were probably smoothed or "
            "compressed; export them again without smoothing, or name all values with --classes"
        )
    zero = None if background == NO_BACKGROUND else background or "background"
    classes = [ListedClass(zero if v == 0 and zero else f"class {v}", [], [v]) for v in values]
    unnamed = [c.name for c in classes if c.name.startswith("class ")]
    remarks = _binary_remark(present)
    if unnamed:
        shown = ", ".join(unnamed)
        remarks.append(
            f"the annotator needs the names of these classes; write them in the run file, or use --classes: {shown}"
        )
    return classes, [], remarks


def _from_list(present: frozenset[int], listed: Sequence[ListedClass], background: str | None) -> Numbered:
    """The listed classes with their values. A line with a name such as void is no class: its values are void."""
    first, added, remarks = 0, [], _binary_remark(present)
    has_values = any(c.values for c in listed)
    has_background = any(c.name.lower() in (*BACKGROUND_NAMES, *VOID_NAMES) for c in listed)
    if is_binary(present) and not has_values and len(listed) <= 2:
        values = [[IGNORE_INDEX]] if len(listed) == 1 else [[0], [IGNORE_INDEX]]
        listed = [c._replace(values=v) for c, v in zip(listed, values, strict=True)]
        added = [ListedClass("background", [], [0])] if len(listed) == 1 else []
    elif not has_values and not has_background and max(present - {IGNORE_INDEX}, default=0) == len(listed):
        first = 1
        added = [ListedClass("background", [], [0])] if 0 in present and background != NO_BACKGROUND else []
        zero = " and 0 is the background" if added else " and 0 is void" if 0 in present else ""
        remarks.append(
            f"the list has {len(listed)} names and the masks have values up to {len(listed)}, so the list starts at 1"
            f"{zero}"
        )
    numbered = [c._replace(values=c.values or [first + i]) for i, c in enumerate(listed)]
    void = [value for c in numbered if c.name.lower() in VOID_NAMES for value in c.values]
    if first == 1 and 0 in present and not added:
        void.append(0)
    return [*added, *(c for c in numbered if c.name.lower() not in VOID_NAMES)], void, remarks


def is_binary(present: frozenset[int]) -> bool:
    """Whether the masks have the values 0 and 255 only, so that 255 marks one class."""
    return present == {0, IGNORE_INDEX}


def _binary_remark(present: frozenset[int]) -> list[str]:
    if not is_binary(present):
        return []
    return [f"the masks have the values 0 and {IGNORE_INDEX} only, so {IGNORE_INDEX} is a class and not void"]


def _background(classes: Sequence[ListedClass], background: str | None) -> str | None:
    names = [c.name for c in classes]
    if background is None:
        return next((name for name in names if name.lower() in BACKGROUND_NAMES), None)
    if background != NO_BACKGROUND and background not in names:
        hint = did_you_mean(background, names)
        raise DatasetError(f"--background is {background!r}, expected one of {', '.join(names)}, or none{hint}")
    return None if background == NO_BACKGROUND else background


def _entry(c: ListedClass) -> dict[str, Any]:
    usual = "background" if c.name.lower() in BACKGROUND_NAMES else spelled_out(c.name)
    prompts = c.prompts or [usual]
    return {"name": c.name, **({"prompts": prompts} if prompts != [c.name] else {}), "values": c.values}


def images_per_class(plan: ClassPlan, values: Mapping[str, frozenset[int]]) -> dict[str, int]:
    """Class name -> number of masks in which it has a pixel."""
    return {c["name"]: sum(bool(present & set(c["values"])) for present in values.values()) for c in plan.classes}

"""From the values in masks, and a list of names if there is one, to the classes of a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.doctor.prompts import spelled_out
from pipeline.errors import DatasetError
from pipeline.settings import did_you_mean

VOID = 255
NO_BACKGROUND = "none"
BACKGROUND_NAMES = ("background", "bg", "backgr", "_background_")
VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabeled", "unknown", "_ignore_")
MAX_UNNAMED = 64  # more values than these are hardly classes, unless a list says so


class ListedClass(NamedTuple):
    """A line of the class list."""

    name: str
    prompts: list[str]
    values: list[int]
    """Empty: the position in the list."""


class ClassPlan(NamedTuple):
    """Classes as the run file has them."""

    classes: list[dict[str, Any]]
    """Name, prompts (if they are not the name) and values of each."""
    background: str | None
    ignore_values: list[int]
    remarks: list[str]
    """What was decided, to be told to the user."""


def read_class_list(path: Path) -> list[ListedClass]:
    """One class a line, in the order of the mask values: `NAME`, `NAME: VALUE, ...`, and `= PROMPT, ...` after either.

    Empty lines and what follows a # count for nothing.
    raises: DatasetError for a file that is missing or not of this form
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"--classes {path} cannot be read ({error}); give a text file, a class a line") from None
    classes = [_listed_class(text, path) for line in lines if (text := line.partition("#")[0].strip())]
    if not classes:
        raise DatasetError(f"--classes {path} is empty; write a class a line, in the order of the mask values")
    twice = [name for name, number in Counter(c.name for c in classes).items() if number > 1]
    if twice:
        raise DatasetError(f"--classes {path} has {twice[0]!r} twice; several values of a class: {twice[0]}: 1, 2")
    return classes


def _listed_class(line: str, path: Path) -> ListedClass:
    head, _, prompts = (part.strip() for part in line.partition("="))
    name, colon, values = (part.strip() for part in head.partition(":"))
    if not name or (colon and not re.fullmatch(r"\d+(\s*,\s*\d+)*", values)):
        raise DatasetError(f"--classes {path}: {line!r} is no class; write NAME, NAME: VALUE or NAME = PROMPT, PROMPT")
    words = [prompt.strip() for prompt in prompts.split(",") if prompt.strip()]
    return ListedClass(name, words, [int(value) for value in values.split(",")] if colon else [])


def plan_classes(
    masks: Iterable[frozenset[int]], listed: Sequence[ListedClass] | None, background: str | None
) -> ClassPlan:
    """Classes, background and void from what was found and what was given.

    masks:      the values of each mask
    listed:     the class list, if there is one
    background: a class's name, `none`, or None to go by names (and, without a list, by the value 0)
    raises:     DatasetError for values without a name, too many values, or a background that is no class
    """
    masks = list(masks)
    found = frozenset().union(*masks)
    given = _from_values(found, background) if listed is None else _from_list(found, listed, background)
    classes, void, remarks = given
    named = {value for c in classes for value in c.values}
    without_name = sorted(found - named - set(void) - {VOID})
    if without_name:
        shown = ", ".join(map(str, without_name))
        raise DatasetError(
            f"the masks have values that --classes does not name: {shown}; add a line for each, e.g. NAME: "
            f"{without_name[0]}, or void: {without_name[0]}"
        )
    if len(classes) < 2:
        raise DatasetError(
            f"{len(classes)} class is too few ({', '.join(c.name for c in classes) or 'none'}; values found: "
            f"{sorted(found)}); a run needs two, one may be the background: see --classes and --background"
        )
    unseen = [c.name for c in classes if not found & set(c.values)]
    if unseen:
        remarks.append(f"in no mask: {', '.join(unseen)}")
    ignore = sorted({*void, *([] if VOID in named else [VOID])})
    return ClassPlan([_entry(c) for c in classes], _background(classes, background), ignore, remarks)


Given = tuple[list[ListedClass], list[int], list[str]]  # classes with values, void values, remarks


def _from_values(found: frozenset[int], background: str | None) -> Given:
    """Every value is a class with a placeholder for a name; 0 is the background unless that is said to be none."""
    values = sorted(found - {VOID}) if not is_binary(found) else [0, VOID]
    if len(values) > MAX_UNNAMED:
        raise DatasetError(
            f"the masks hold {len(values)} different values, which are hardly classes: smoothed or compressed masks "
            "look so; export them again without smoothing, or name all values with --classes"
        )
    zero = None if background == NO_BACKGROUND else background or "background"
    classes = [ListedClass(zero if v == 0 and zero else f"class {v}", [], [v]) for v in values]
    unnamed = [c.name for c in classes if c.name.startswith("class ")]
    remarks = _binary_remark(found)
    if unnamed:
        shown = ", ".join(unnamed)
        remarks.append(f"name these, the annotator is asked for names: in the run file, or by --classes: {shown}")
    return classes, [], remarks


def _from_list(found: frozenset[int], listed: Sequence[ListedClass], background: str | None) -> Given:
    """Names with their values; lines called void or the like are no classes."""
    first, added, remarks = 0, [], _binary_remark(found)
    has_values = any(c.values for c in listed)
    has_background = any(c.name.lower() in (*BACKGROUND_NAMES, *VOID_NAMES) for c in listed)
    if is_binary(found) and not has_values and len(listed) <= 2:
        values = [[VOID]] if len(listed) == 1 else [[0], [VOID]]
        listed = [c._replace(values=v) for c, v in zip(listed, values, strict=True)]
        added = [ListedClass("background", [], [0])] if len(listed) == 1 else []
    elif not has_values and not has_background and max(found - {VOID}, default=0) == len(listed):
        first = 1
        added = [ListedClass("background", [], [0])] if 0 in found and background != NO_BACKGROUND else []
        told = " and 0 is the background" if added else " and 0 is void" if 0 in found else ""
        remarks.append(f"{len(listed)} names and values up to {len(listed)}, so the list starts at 1{told}")
    numbered = [c._replace(values=c.values or [first + i]) for i, c in enumerate(listed)]
    void = [value for c in numbered if c.name.lower() in VOID_NAMES for value in c.values]
    if first == 1 and 0 in found and not added:
        void.append(0)
    return [*added, *(c for c in numbered if c.name.lower() not in VOID_NAMES)], void, remarks


def is_binary(found: frozenset[int]) -> bool:
    """Masks that mark one thing with 255."""
    return found == {0, VOID}


def _binary_remark(found: frozenset[int]) -> list[str]:
    return [f"the masks hold 0 and {VOID} only, so {VOID} is taken for a class and not for void"] * is_binary(found)


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
    return {c["name"]: sum(bool(found & set(c["values"])) for found in values.values()) for c in plan.classes}

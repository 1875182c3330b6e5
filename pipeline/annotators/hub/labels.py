"""Closed vocabularies: which labels of a network mean each class of the run."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import AnnotatorError
from pipeline.settings import DataSettings, did_you_mean

SETTING = "annotate.transformers.class_map"
SYNONYMS = re.compile("[,;]")  # "door, double door" of ADE20K names one label
NUM_NEAR = 3  # labels that an error suggests

Labels = Sequence[str]
Groups = list[list[int]]


def labels_of(id2label: Mapping[Any, Any]) -> list[str]:
    """Names of a network's labels in the order of their numbers, from `id2label` of config.json.

    raises: AnnotatorError if the numbers are not 0, 1, ...
    """
    by_number = {int(number): str(name) for number, name in id2label.items()}
    if not by_number or sorted(by_number) != list(range(len(by_number))):
        raise AnnotatorError(
            f"id2label of config.json has the numbers {sorted(by_number)[:10]}, expected 0, 1, ... with the names of "
            "the labels; correct config.json"
        )
    return [by_number[number] for number in range(len(by_number))]


def label_groups(
    labels: Labels, class_map: Mapping[str, Sequence[str | int]], data: DataSettings, complement: str | None = None
) -> Groups:
    """Numbers of the labels that mean each class, in the order of `data.classes`.

    A class without an entry in `class_map` has the labels with its name, or with that of one of its prompts. A
    label with the name of another class belongs to that class only.

    complement: class whose probability is 1 minus the sum of the others; it needs no label
    raises:     AnnotatorError for a class without an entry without a matching label, for entries of unknown classes
                or labels, for a label of two classes, and if no class has a label
    """
    unknown = [name for name in class_map if name not in data.class_names]
    if unknown:
        hint = did_you_mean(unknown[0], data.class_names)
        raise AnnotatorError(
            f"{SETTING} names {unknown[0]!r}, which is not in data.classes{hint}; correct or remove it"
        )
    if complement in class_map:
        raise AnnotatorError(
            f"annotate.transformers.background is complement, but {SETTING} has an entry for {complement}; remove one "
            "of the two"
        )
    numbers = numbers_by_word(labels)
    called_like_a_class = {number for name in data.class_names for number in numbers[spelling(name)]}
    groups: Groups = []
    for name, prompts in zip(data.class_names, data.class_prompts, strict=True):
        if name in class_map:
            groups.append(_listed(name, class_map[name], labels))
        elif name == complement:
            groups.append([])
        else:
            own = numbers[spelling(name)]
            others = [n for prompt in prompts for n in numbers[spelling(prompt)] if n not in called_like_a_class]
            groups.append(sorted({*own, *others}))
    _refuse_unmatched(groups, labels, class_map, data, complement)
    _refuse_shared(groups, labels, data.class_names)
    return groups


def numbers_by_word(labels: Labels) -> dict[str, list[int]]:
    """Numbers of the labels by the spelling of their name, and of each of its synonyms."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        for word in dict.fromkeys(map(spelling, (label, *SYNONYMS.split(label)))):
            numbers[word].append(number)
    return numbers


def spelling(name: str) -> str:
    """Lower-case letters and digits of a name: `Traffic Light` and `traffic_light` are spelled alike."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def described(groups: Groups, labels: Labels, class_names: Sequence[str], complement: str | None) -> str:
    """The labels of each class as text, for the log: `cat: cat (8); background: 1 minus the others`."""
    texts = []
    for name, group in zip(class_names, groups, strict=True):
        listed = " + ".join(f"{labels[number]} ({number})" for number in group)
        texts.append(f"{name}: {listed or ('1 minus the others' if name == complement else 'none')}")
    return "; ".join(texts)


def without_label(groups: Groups, class_names: Sequence[str], complement: str | None) -> list[str]:
    """Classes that have no label, in the order of `class_names`."""
    return [name for name, group in zip(class_names, groups, strict=True) if not group and name != complement]


def prompts_without_label(
    labels: Labels, class_map: Mapping[str, Sequence[str | int]], data: DataSettings, complement: str | None
) -> list[str]:
    """Prompts in `data.classes` that choose no label, because none is spelled like them; arguments as `label_groups`.

    Prompts of classes with an entry in `class_map`, and of the complement, do not count.
    """
    numbers = numbers_by_word(labels)
    given = [prompt for one in data.classes if one.name not in (*class_map, complement) for prompt in one.prompts]
    return [prompt for prompt in given if spelling(prompt) not in numbers]


def _listed(name: str, entries: Sequence[str | int], labels: Labels) -> list[int]:
    """Numbers of the labels of an entry of `class_map`; AnnotatorError for an unknown one."""
    numbers = numbers_by_word(labels)
    found = []
    for entry in entries:
        of_entry = [entry] if isinstance(entry, int) else numbers[spelling(entry)]
        if not of_entry or max(of_entry) >= len(labels):
            hint = f"use 0 to {len(labels) - 1}" if isinstance(entry, int) else near(entry, labels)
            raise AnnotatorError(f"{SETTING} has the label {entry!r} for {name}, but the network has none; {hint}")
        found += of_entry
    return list(dict.fromkeys(found))


def near(name: str, labels: Labels) -> str:
    """Text that names the labels that are written most like a name."""
    by_spelling = {spelling(label): label for label in labels}
    close = difflib.get_close_matches(spelling(name), list(by_spelling), n=NUM_NEAR, cutoff=0.5)
    close += [word for word in by_spelling if spelling(name) in word and word not in close][: NUM_NEAR - len(close)]
    return f"labels like it: {', '.join(by_spelling[word] for word in close)}" if close else "no label is like it"


def _refuse_unmatched(
    groups: Groups,
    labels: Labels,
    class_map: Mapping[str, Sequence[str | int]],
    data: DataSettings,
    complement: str | None,
) -> None:
    missing = [name for name in without_label(groups, data.class_names, complement) if name not in class_map]
    if missing:
        hints = "; ".join(f"{name}: {near(name, labels)}" for name in missing)
        has_background = data.background in missing
        fix = f"; or set annotate.transformers.background: complement for {data.background}" if has_background else ""
        entry = json.dumps(labels[0], ensure_ascii=False)
        raise AnnotatorError(
            f"the network has no label for {', '.join(missing)} ({hints}). Its {len(labels)} labels: {shown(labels)}. "
            f"Add an entry for each class to {SETTING}, with names or numbers of labels ({{{missing[0]}: [{entry}]}}), "
            f"or [] if the network does not predict it{fix}"
        )
    if not any(groups):
        raise AnnotatorError(f"{SETTING} has no label for any class; add the labels of at least one class")


def shown(labels: Labels) -> str:
    """All labels as text, each with its number."""
    return ", ".join(f"{number} {label}" for number, label in enumerate(labels))


def _refuse_shared(groups: Groups, labels: Labels, class_names: Sequence[str]) -> None:
    classes: dict[int, list[str]] = defaultdict(list)
    for name, group in zip(class_names, groups, strict=True):
        for number in group:
            classes[number].append(name)
    shared = next((number for number in sorted(classes) if len(classes[number]) > 1), None)
    if shared is not None:
        raise AnnotatorError(
            f"the label {labels[shared]} ({shared}) belongs to {' and '.join(classes[shared])}; list the labels of "
            f"each class in {SETTING}, each label once"
        )

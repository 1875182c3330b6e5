"""The wordings to try: each of several prompts of a class by itself, and those of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.doctor.prompts import used_prompts
from pipeline.errors import AnnotatorError, ConfigError
from pipeline.run import Run
from pipeline.settings import DataSettings, SeemSettings, Settings, TransformersSettings, did_you_mean, visible_text
from pipeline.sources.image_checks import shortened

EXAMPLE = '--try "Pole=lamp post,pole"'
OPEN = "seem, python, and transformers with a network that takes words"


class Wording(NamedTuple):
    """Prompts of a class. Several prompts are aliases, which are used together."""

    class_index: int
    prompts: tuple[str, ...]

    def __str__(self) -> str:
        return " + ".join(self.prompts)


def find_wordings(settings: Settings, tries: Sequence[str]) -> list[Wording]:
    """Wordings to compare with the prompts of the run file, in the order of the classes. Each differs from those.

    tries:  `CLASS=WORDING,...`; a wording is a prompt, or several joined by +
    raises: AnnotatorError for an annotator that reads no prompts; ConfigError for a text of another form, an unknown
            class, a class whose prompts are not used, a prompt of another class, and if there is nothing to try
    """
    section = _prompted_section(settings)
    data = settings.data
    used = {prompt.class_name for prompt in used_prompts(data, section)}
    tried = [one for text in tries for one in _parsed(text, data, used)]
    wordings: list[Wording] = []
    for k, (name, current) in enumerate(zip(data.class_names, data.class_prompts, strict=True)):
        if name in used:
            own: list[tuple[str, ...]] = [(prompt,) for prompt in current]
            own += [one.prompts for one in tried if one.class_index == k]
            wordings += [Wording(k, prompts) for prompts in dict.fromkeys(own) if list(prompts) != current]
    if not wordings:
        raise ConfigError(
            f"there is no wording to try: no class in data.classes has several prompts; give some: {EXAMPLE}"
        )
    _refuse_prompts_of_others(wordings, data, used)
    return wordings


def with_wording(prompts: Sequence[Sequence[str]], wording: Wording) -> list[list[str]]:
    """The prompts of all classes, those of one class replaced."""
    return [list(wording.prompts) if k == wording.class_index else list(p) for k, p in enumerate(prompts)]


def _prompted_section(settings: Settings) -> SeemSettings | TransformersSettings | None:
    """Settings of an annotator that reads prompts, None for one in Python; AnnotatorError for others."""
    chosen = settings.annotate
    if chosen.annotator == "python":
        return None
    if chosen.annotator == "seem":
        return chosen.seem
    what, instead = f"annotator {chosen.annotator} reads no prompts, so their wording changes nothing", ""
    if chosen.transformers is not None and chosen.annotator == "transformers":
        from pipeline.annotators.hub.folder import closed_vocabulary, network_folder

        labels = closed_vocabulary(network_folder(chosen.transformers, settings.data))
        if labels is None:
            return chosen.transformers
        what = (
            f"the network {chosen.transformers.model} reads no prompts: it has {len(labels)} labels of its own "
            f"({shortened(labels)}), and a prompt only chooses those that are spelled like it"
        )
        instead = f"run {Run(settings).tool('doctor')}, which lists the labels of each class, and choose others with "
        instead += "annotate.transformers.class_map; or "
    raise AnnotatorError(f"{what}; {instead}compare wordings with an annotator that reads them: {OPEN}")


def _parsed(text: str, data: DataSettings, used: set[str]) -> list[Wording]:
    name, equals, listed = (piece.strip() for piece in text.partition("="))
    if not equals:
        raise ConfigError(f"--try {text!r} has no =; write a class and its wordings, e.g. {EXAMPLE}")
    if name not in data.class_names:
        hint = did_you_mean(name, data.class_names) or f"; it has {', '.join(data.class_names)}"
        raise ConfigError(f"--try {text!r} names {name!r}, which is not in data.classes{hint}")
    if name not in used:
        raise ConfigError(
            f"--try {text!r} has prompts for {name}, the background, whose prompts are not used with these settings of "
            "the annotator; remove this --try, or set background: prompt in the annotator's section"
        )
    k = data.class_names.index(name)
    wordings = [Wording(k, tuple(prompt.strip() for prompt in one.split("+"))) for one in listed.split(",")]
    for one in wordings:
        if not all(one.prompts):
            raise ConfigError(f"--try {text!r} has an empty prompt; write words between the signs = , +")
        if len({prompt.lower() for prompt in one.prompts}) < len(one.prompts):
            raise ConfigError(f"--try {text!r} has a prompt twice in {one}; remove one of the two")
        for prompt in one.prompts:
            try:
                visible_text(prompt)
            except ValueError as error:
                raise ConfigError(f"--try: {error}") from None
    return wordings


def _refuse_prompts_of_others(wordings: Sequence[Wording], data: DataSettings, used: set[str]) -> None:
    """ConfigError for a prompt that another class has: the annotator could not distinguish the two."""
    owner = {
        prompt.lower(): name
        for name, prompts in zip(data.class_names, data.class_prompts, strict=True)
        if name in used
        for prompt in prompts
    }
    for wording in wordings:
        name = data.class_names[wording.class_index]
        for prompt in wording.prompts:
            if owner.get(prompt.lower(), name) != name:
                raise ConfigError(
                    f"--try gives {name} the prompt {prompt!r}, which {owner[prompt.lower()]} has in data.classes; "
                    "give each class different prompts"
                )

"""Findings about the words that the annotator is asked for: placeholders, spelling, tokens, collisions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pipeline.doctor.findings import Finding, Level
from pipeline.settings import DataSettings, SeemSettings, Settings

PLACEHOLDER = re.compile(r"(class|category|label|value|object|id)?[ _-]*\d+|unnamed|todo|.", re.IGNORECASE)
MANY_PIECES = 4  # of one word; CLIP's vocabulary has common words whole


class Prompt(NamedTuple):
    """What an annotator is asked for, and the class that it stands for."""

    class_name: str
    text: str

    def __str__(self) -> str:
        return self.text if self.text == self.class_name else f"{self.text} ({self.class_name})"


class Vocabulary(NamedTuple):
    """A tokenizer, as the checks need it.

    tokens:    texts -> token ids of each, with those of the start and the end
    pieces:    a word -> the parts that it is cut into
    unknown:   the piece that stands for what the vocabulary cannot spell
    longest:   tokens that the text tower takes
    sentences: a prompt -> the texts that are embedded for it
    """

    tokens: Callable[[Sequence[str]], list[list[int]]]
    pieces: Callable[[str], list[str]]
    unknown: str
    longest: int
    sentences: Callable[[str], list[str]]


def prompt_findings(settings: Settings, vocabulary: Vocabulary | None) -> list[Finding]:
    """vocabulary: that of SEEM; None for an annotator of one's own, or where SEEM's is not there"""
    chosen = settings.annotate
    if chosen.annotator == "onnx":  # its classes are channels, and prompts say nothing to it
        return []
    is_seem = chosen.annotator == "seem"
    prompts = asked_prompts(settings.data, chosen.seem if is_seem else None)
    level: Level = "error" if is_seem else "warning"  # an annotator of one's own may not listen to prompts
    findings = [*_placeholders(prompts, level), *_spelling(prompts), *_given_twice(prompts, level)]
    if vocabulary is not None:
        findings += [*_pieces(prompts, vocabulary), *_too_long(prompts, vocabulary), *_same_tokens(prompts, vocabulary)]
    if is_seem:
        findings += _void(prompts, settings.data)
    return findings


def asked_prompts(data: DataSettings, seem: SeemSettings | None) -> list[Prompt]:
    """Every prompt that is used: SEEM may get the background from elsewhere."""
    unused = data.background if seem is not None and seem.background != "prompt" else None
    pairs = zip(data.class_names, data.class_prompts, strict=True)
    return [Prompt(name, text) for name, texts in pairs if name != unused for text in texts]


def is_placeholder(text: str) -> bool:
    """Whether a prompt names nothing: `class 1`, `label_2`, `3`, a single letter."""
    return PLACEHOLDER.fullmatch(text.strip()) is not None


def spelled_out(name: str) -> str:
    """A name as a person would write it: `traffic_light`, `TrafficLight` -> `traffic light`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))
    return " ".join(apart.lower().split() if apart != name else apart.split())


def _placeholders(prompts: Sequence[Prompt], level: Level) -> Iterator[Finding]:
    where = tuple(str(prompt) for prompt in prompts if is_placeholder(prompt.text))
    if where:
        what = f"{len(where)} prompts name nothing that a picture could show"
        yield Finding(level, what, where, "write what they are into name or prompts of data.classes")


def _spelling(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    odd = [p for p in prompts if p.text != spelled_out(p.text) and not is_placeholder(p.text)]
    if odd:
        fix = f"add prompts with spaces, e.g. {{name: {odd[0].class_name}, prompts: [{spelled_out(odd[0].text)}]}}"
        what = f"{len(odd)} prompts are written as identifiers, not as words"
        yield Finding("warning", what, tuple(map(str, odd)), fix)


def _given_twice(prompts: Sequence[Prompt], level: Level) -> Iterator[Finding]:
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt.text.strip().lower()].append(prompt)
    where = tuple(_collision(group) for group in groups.values() if len(group) > 1)
    if where:
        yield Finding(level, f"{len(where)} prompts are given twice", where, "give each class prompts of its own")


def _collision(group: Sequence[Prompt]) -> str:
    texts = " = ".join(dict.fromkeys(f"{prompt.text!r}" for prompt in group))
    return f"{texts} of {' and '.join(dict.fromkeys(prompt.class_name for prompt in group))}"


def _pieces(prompts: Sequence[Prompt], vocabulary: Vocabulary) -> Iterator[Finding]:
    where = []
    for prompt in prompts:
        for word in spelled_out(prompt.text).split():
            pieces = vocabulary.pieces(word)
            is_spelt = len(pieces) >= max(3, len(word))  # letter by letter
            if len(pieces) >= MANY_PIECES or is_spelt or vocabulary.unknown in pieces:
                where.append(f"{word} of {prompt}: {' '.join(piece.removesuffix('</w>') for piece in pieces)}")
    if where:
        what = f"{len(where)} words are not in the annotator's vocabulary but spelt in pieces, so it hardly knows them"
        yield Finding("warning", what, tuple(where), "add a commoner word to prompts, and see what the maps show")


def _too_long(prompts: Sequence[Prompt], vocabulary: Vocabulary) -> Iterator[Finding]:
    where = []
    for prompt in prompts:
        length = max(map(len, vocabulary.tokens(vocabulary.sentences(prompt.text))))
        if length > vocabulary.longest:
            where.append(f"{prompt.class_name} ({length} tokens)")
    if where:
        what = f"{len(where)} prompts are longer than the {vocabulary.longest} tokens that the annotator reads"
        yield Finding("error", what, tuple(where), "shorten them, or split them into several prompts of the class")


def _same_tokens(prompts: Sequence[Prompt], vocabulary: Vocabulary) -> Iterator[Finding]:
    """Prompts that differ to the eye only; equal ones are `_given_twice`."""
    groups: dict[tuple[int, ...], dict[str, Prompt]] = defaultdict(dict)
    for prompt in prompts:
        ids = tuple(vocabulary.tokens([vocabulary.sentences(prompt.text)[0]])[0])
        groups[ids].setdefault(prompt.text.strip().lower(), prompt)
    where = tuple(_collision(list(group.values())) for group in groups.values() if len(group) > 1)
    if where:
        what = f"{len(where)} groups of prompts are the same to the annotator, token by token"
        yield Finding("error", what, where, "give each class prompts of its own")


def _void(prompts: Sequence[Prompt], data: DataSettings) -> Iterator[Finding]:
    """SEEM's own "no object" is the text `background`."""
    taken = [p for p in prompts if p.text.strip().lower() == "background" and p.class_name != data.background]
    if taken:
        what = "a class is asked for as what the annotator calls nothing, `background`, but it is not data.background"
        yield Finding("warning", what, tuple(map(str, taken)), f"set data.background: {taken[0].class_name}")

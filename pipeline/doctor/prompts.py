"""Findings about the prompts of the annotator: placeholders, spelling, tokens, equal prompts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pipeline.doctor.findings import Finding, Level
from pipeline.errors import UserError
from pipeline.settings import DataSettings, SeemSettings, Settings, TransformersSettings

PLACEHOLDER = re.compile(
    r"(class|category|label|value|object|id)?[ _-]*(\d+|#[0-9a-f]{6})|unnamed|todo|.", re.IGNORECASE
)
MANY_PIECES = 4  # per word; common words are a single piece in CLIP's vocabulary


class Prompt(NamedTuple):
    """A prompt and its class."""

    class_name: str
    text: str

    def __str__(self) -> str:
        return self.text if self.text == self.class_name else f"{self.text} ({self.class_name})"


class Vocabulary(NamedTuple):
    """The functions of a tokenizer that the checks need.

    tokens:    texts -> token ids of each, including start and end tokens
    pieces:    a word -> its subword pieces
    unknown:   the piece for unknown characters
    longest:   maximal number of tokens of a text
    sentences: a prompt -> the texts that are embedded for it
    """

    tokens: Callable[[Sequence[str]], list[list[int]]]
    pieces: Callable[[str], list[str]]
    unknown: str
    longest: int
    sentences: Callable[[str], list[str]]


def prompt_findings(settings: Settings, vocabulary: Vocabulary | None) -> list[Finding]:
    """Check the prompts.

    vocabulary: SEEM's; None for another annotator, or if SEEM's cannot be read
    """
    chosen = settings.annotate
    is_seem, is_prompted = chosen.annotator == "seem", _is_prompted(settings)
    if chosen.annotator in ("onnx", "maps", "student") or (chosen.annotator == "transformers" and not is_prompted):
        return []  # its classes are channels or labels, which other checks compare with the network's
    section = chosen.seem if is_seem else chosen.transformers if is_prompted else None
    prompts = used_prompts(settings.data, section)
    level: Level = "warning" if section is None else "error"  # an annotator of the user may ignore prompts
    findings = [*_placeholders(prompts, level), *_spelling(prompts), *_equal(prompts, level)]
    if vocabulary is not None:
        findings += [*_pieces(prompts, vocabulary), *_too_long(prompts, vocabulary), *_same_tokens(prompts, vocabulary)]
    if is_seem:
        findings += _void(prompts, settings.data)
    return findings


def _is_prompted(settings: Settings) -> bool:
    """Whether the annotator is a network in a local folder that is prompted with words."""
    chosen = settings.annotate
    if chosen.transformers is None or chosen.annotator != "transformers":
        return False
    from pipeline.annotators.hub.folder import PROMPTED, kind_of, local_folder

    folder = local_folder(chosen.transformers.model, settings.data)
    try:
        return folder is not None and kind_of(folder) in PROMPTED
    except UserError:  # `weight_findings` reports it
        return False


def used_prompts(data: DataSettings, section: SeemSettings | TransformersSettings | None) -> list[Prompt]:
    """All prompts that are used; SEEM and prompted networks use those of the background only with `background: prompt`.

    section: settings of such an annotator; None for others
    """
    unused = data.background if section is not None and section.background != "prompt" else None
    pairs = zip(data.class_names, data.class_prompts, strict=True)
    return [Prompt(name, text) for name, texts in pairs if name != unused for text in texts]


def is_placeholder(text: str) -> bool:
    """Whether a prompt is a placeholder: `class 1`, `class #c80a0a`, `label_2`, `3`, a single letter."""
    return PLACEHOLDER.fullmatch(text.strip()) is not None


def spelled_out(name: str) -> str:
    """An identifier as words: `traffic_light`, `TrafficLight` -> `traffic light`."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))
    return " ".join(apart.lower().split() if apart != name else apart.split())


def _placeholders(prompts: Sequence[Prompt], level: Level) -> Iterator[Finding]:
    where = tuple(str(prompt) for prompt in prompts if is_placeholder(prompt.text))
    if where:
        what = f"{len(where)} prompts are placeholders that do not describe an object"
        yield Finding(level, what, where, "describe the classes in name or prompts of data.classes")


def _spelling(prompts: Sequence[Prompt]) -> Iterator[Finding]:
    identifiers = [p for p in prompts if p.text != spelled_out(p.text) and not is_placeholder(p.text)]
    if identifiers:
        first = identifiers[0]
        fix = f"add prompts with spaces, e.g. {{name: {first.class_name}, prompts: [{spelled_out(first.text)}]}}"
        what = f"{len(identifiers)} prompts are written as identifiers, not as words"
        yield Finding("warning", what, tuple(map(str, identifiers)), fix)


def _equal(prompts: Sequence[Prompt], level: Level) -> Iterator[Finding]:
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt.text.strip().lower()].append(prompt)
    where = tuple(_collision(group) for group in groups.values() if len(group) > 1)
    if where:
        yield Finding(level, f"{len(where)} prompts are given twice", where, "give each class different prompts")


def _collision(group: Sequence[Prompt]) -> str:
    texts = " = ".join(dict.fromkeys(f"{prompt.text!r}" for prompt in group))
    return f"{texts} of {' and '.join(dict.fromkeys(prompt.class_name for prompt in group))}"


def _pieces(prompts: Sequence[Prompt], vocabulary: Vocabulary) -> Iterator[Finding]:
    where = []
    for prompt in prompts:
        for word in spelled_out(prompt.text).split():
            pieces = vocabulary.pieces(word)
            is_letters = len(pieces) >= max(3, len(word))  # one piece per letter
            if len(pieces) >= MANY_PIECES or is_letters or vocabulary.unknown in pieces:
                where.append(f"{word} of {prompt}: {' '.join(piece.removesuffix('</w>') for piece in pieces)}")
    if where:
        what = (
            f"{len(where)} words are not in the annotator's vocabulary and are split into pieces, so their maps may be "
            "poor"
        )
        yield Finding("warning", what, tuple(where), "add a more common word to prompts, and check the maps")


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
    """Prompts that are written differently but have the same tokens. Equal prompts are found by `_equal`."""
    groups: dict[tuple[int, ...], dict[str, Prompt]] = defaultdict(dict)
    for prompt in prompts:
        ids = tuple(vocabulary.tokens([vocabulary.sentences(prompt.text)[0]])[0])
        groups[ids].setdefault(prompt.text.strip().lower(), prompt)
    where = tuple(_collision(list(group.values())) for group in groups.values() if len(group) > 1)
    if where:
        what = f"{len(where)} groups of prompts have the same tokens, so the annotator cannot distinguish them"
        yield Finding("error", what, where, "give each class different prompts")


def _void(prompts: Sequence[Prompt], data: DataSettings) -> Iterator[Finding]:
    """SEEM uses the text `background` for "no object"."""
    conflicts = [p for p in prompts if p.text.strip().lower() == "background" and p.class_name != data.background]
    if conflicts:
        what = "a class has the prompt `background`, which SEEM uses for no object, but it is not data.background"
        yield Finding("warning", what, tuple(map(str, conflicts)), f"set data.background: {conflicts[0].class_name}")

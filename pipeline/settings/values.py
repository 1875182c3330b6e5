"""Sizes, devices and texts that several sections have, and checks of them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any
from unicodedata import category, normalize

from pydantic import AfterValidator, Field

Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
SCHEDULER = r"^(threads|[a-z]+://.+)$"
FACTORY = r"^[\w.]+:\w+$"
TEMPLATE = r"\{\}"
WORDS_OF_PATTERNS = {
    DEVICE: "auto, cpu, cuda or cuda:N",
    SCHEDULER: "threads or an address such as tcp://host:8786",
    FACTORY: "module:function",
    TEMPLATE: "a sentence with {} in place of the class name",
}
"""Pattern of a text -> what it asks for, in words."""
Device = Annotated[str, Field(pattern=DEVICE)]

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, formatting such as byte order marks, surrogates and line separators."""
JOINERS = "\u200c\u200d"  # part of the spelling in Persian, Hindi and other languages


def visible_text(text: str) -> str:
    """The text in Unicode's normal form C; ValueError if it is blank, or has a character that is not shown."""
    hidden = next((char for char in text if category(char) in HIDDEN and char not in JOINERS), None)
    if hidden is not None:
        raise ValueError(f"{text!a} has the invisible character U+{ord(hidden):04X}; remove it")
    if not text.strip():
        raise ValueError(f"{text!r} is blank; write a text")
    return normalize("NFC", text)


VisibleText = Annotated[str, AfterValidator(visible_text)]


def refuse_duplicates(entries: Sequence[Any], where: str, what: str) -> None:
    """ValueError if an entry of the setting `where` is there twice; `what` an entry is."""
    twice = [entry for entry, count in Counter(entries).items() if count > 1]
    if twice:
        raise ValueError(f"{where} has the {what} {twice[0]!r} twice; remove one of them")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the closest known word, or an empty string if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""

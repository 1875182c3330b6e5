"""The words of a YAML file as they are written, for messages about words that YAML reads as numbers or booleans."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.yaml_text import read_yaml

KEY = "[key]"  # last part of pydantic's location of a key
BOOLEANS = {True: "on", False: "off"}  # what is quoted if the file's own word is unknown


def unquoted_word(texts: Sequence[str], location: Sequence[int | str], value: Any) -> str | None:
    """What a setting is instead of text, and what to write; None if it was not written as one word.

    texts:    YAML files; the last one that has the setting counts
    location: keys and list indices of the setting
    value:    what YAML read there
    """
    kind = _kind(value)
    if kind is None:
        return None
    words = [word for text in texts if (word := word_at(text, location, value)) is not None]
    word = words[-1] if words else BOOLEANS[value] if isinstance(value, bool) else str(value)
    if not word or (value is None and not words):
        return "is empty; write a text, or remove the entry"
    return f"is {word}, which YAML reads as {kind}; write it in quotes: {json.dumps(word, ensure_ascii=False)}"


def _kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "nothing" if value is None else "a date" if isinstance(value, datetime.date) else None


def word_at(text: str, location: Sequence[int | str], value: Any) -> str | None:
    """The word at a location of a YAML text; None if there is none that YAML reads as this value."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            if location[-1] == KEY and part == location[-2]:
                return next((key.value for key, _ in node.value if _reads_as(key, value)), None)
            node = next((entry for key, entry in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return None
    return str(node.value) if node is not None and _reads_as(node, value) else None


def _reads_as(node: yaml.Node, value: Any) -> bool:
    """Whether a node is a word without quotes that YAML reads as this value."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return False
    read = read_yaml(node.value)
    return type(read) is type(value) and bool(read == value)

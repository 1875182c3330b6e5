"""YAML from users, and values as YAML on one line, for command lines; every YAML reader restores them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.errors import first_line

PLAIN_TEXT = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
ESCAPES = {'"': '\\"', "\\": "\\\\"}
MAX_SHORT = 0xFFFF
MAX_ENTRIES = 100_000


def read_yaml(text: str) -> Any:
    """The content of a YAML text.

    raises: yaml.YAMLError if it is not valid, has over MAX_ENTRIES entries (aliases count as often as they are used),
            or contains itself
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # 2024-13-45, 0b_, !!bool x and too many brackets raise any of Python's errors
        raise yaml.YAMLError(f"{type(error).__name__}: {first_line(error)}") from None
    _refuse_many_entries(content)
    return content


def _refuse_many_entries(content: Any) -> None:
    """yaml.YAMLError if a tree has too many entries or contains itself."""
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping | list | tuple | set):
            count += len(value)
            pending += value.values() if isinstance(value, Mapping) else value
        if count > MAX_ENTRIES:
            raise yaml.YAMLError(f"it has over {MAX_ENTRIES} entries, or contains itself")


def yaml_text(value: Any) -> str:
    """A value as YAML on one line, in a form that can stand inside a flow mapping.

    value: None, bool, int, float, text, or a list or mapping of these
    """
    match value:
        case Mapping():
            return f"{{{', '.join(f'{yaml_text(key)}: {yaml_text(entry)}' for key, entry in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(yaml_text, value))}]"
        case str():
            is_plain = PLAIN_TEXT.fullmatch(value) and yaml.safe_load(value) == value
            return value if is_plain else f'"{"".join(map(_escaped, value))}"'
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return _float_text(value)
    return str(value)


def _escaped(character: str) -> str:
    """A character within double quotes."""
    if character.isprintable():
        return ESCAPES.get(character, character)
    code = ord(character)
    return f"\\u{code:04x}" if code <= MAX_SHORT else f"\\U{code:08x}"


def _float_text(value: float) -> str:
    """YAML reads 1e-05 as text, because it has no point."""
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    number, e, exponent = repr(value).partition("e")
    return repr(value) if "." in number else f"{number}.0{e}{exponent}"

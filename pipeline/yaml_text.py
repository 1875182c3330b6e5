"""Values as YAML on one line, for command lines; every YAML reader restores them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

PLAIN_TEXT = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
ESCAPES = {'"': '\\"', "\\": "\\\\"}
MAX_SHORT = 0xFFFF


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

"""The text of a run file: settings as YAML, with a comment beside each that a user will want to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

INDENT = "  "


def render(head: list[str], tree: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """head: lines of the opening comment; comments: full name of a setting, or `data.classes.NAME`, to its comment."""
    return "\n".join([*(f"# {line}" for line in head), *_lines(tree, "", comments)]) + "\n"


def _lines(tree: Mapping[str, Any], prefix: str, comments: Mapping[str, str]) -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        indent = INDENT * prefix.count(".")
        if isinstance(value, Mapping) and value:
            yield _commented(f"{indent}{flow(key)}:", comments.get(name))
            yield from _lines(value, f"{name}.", comments)
        elif name == "data.classes":
            yield _commented(f"{indent}{key}:", comments.get(name))
            for entry in value:
                called = entry["name"] if isinstance(entry, Mapping) else entry
                yield _commented(f"{indent}{INDENT}- {flow(entry)}", comments.get(f"{name}.{called}"))
        else:
            yield _commented(f"{indent}{flow(key)}: {flow(value)}", comments.get(name))


def _commented(line: str, comment: str | None) -> str:
    return f"{line} # {comment}" if comment else line


def flow(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    text: str = yaml.dump(
        value, Dumper=Quoting, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")


class Quoting(yaml.SafeDumper):
    """Quotes text with characters that do not print or look like a space, such as U+00A0: YAML drops or folds them."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


Quoting.add_representer(str, Quoting.represent_text)

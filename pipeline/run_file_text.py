"""The text of a run file: settings as YAML, with comments on those that users often change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

INDENT = "  "


def render(head: list[str], tree: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Text of a run file.

    head:     lines of the opening comment
    tree:     section -> name -> value
    comments: by full name of a setting, or by `data.classes.NAME`
    """
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
                class_name = entry["name"] if isinstance(entry, Mapping) else entry
                yield _commented(f"{indent}{INDENT}- {flow(entry)}", comments.get(f"{name}.{class_name}"))
        else:
            yield _commented(f"{indent}{flow(key)}: {flow(value)}", comments.get(name))


def _commented(line: str, comment: str | None) -> str:
    return f"{line} # {comment}" if comment else line


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.dump(
        value, Dumper=Quoting, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")


class Quoting(yaml.SafeDumper):
    """Quotes text with non-printing or space-like characters, such as U+00A0, because YAML drops or folds them."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


Quoting.add_representer(str, Quoting.represent_text)

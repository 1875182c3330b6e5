"""The manual of the settings as text, from the schema: name, values, default and meaning of each setting."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.errors import ConfigError
from pipeline.settings import Settings, did_you_mean

Schema = Mapping[str, Any]
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
INDENT = "    "
WIDTH = 120


class Entry(NamedTuple):
    """One setting, or a section of settings.

    name:    full name
    values:  type and range, e.g. `integer >= 1`; empty for a section
    default: `, default X` or `, required`; empty for a section
    meaning: docstring
    """

    name: str
    values: str
    default: str
    meaning: str

    def __str__(self) -> str:
        head = f"{self.name}: {self.values}{self.default}" if self.values else f"{self.name}:"
        paragraphs = (" ".join(text.split()) for text in self.meaning.split("\n\n"))
        lines = (textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT) for text in paragraphs)
        return "\n".join([head, "\n\n".join(lines)]).rstrip()


def manual(section: str | None = None) -> str:
    """All settings, or those of a section (`train`, `data.splits`), or a single one (`train.lr`, or `lr` for short).

    raises: ConfigError for an unknown name, with the closest known one
    """
    chosen = entries()
    if section is not None:
        names = [entry.name for entry in chosen]
        selected = {section} if section in names else {name for name in names if name.endswith(f".{section}")}
        if not selected:
            raise ConfigError(
                f"{section} is neither a section nor a setting{did_you_mean(section, names)}; "
                "for a list, run: conformalsam settings"
            )
        chosen = [
            entry
            for entry in chosen
            if any(entry.name == name or entry.name.startswith((f"{name}.", f"{name}[")) for name in selected)
        ]
    return "\n\n".join(map(str, chosen))


def entries() -> list[Entry]:
    """All settings: those outside of sections, then section by section, in the order of the schema."""
    root: Schema = Settings.model_json_schema()
    definitions = root["$defs"]

    def walk(schema: Schema, prefix: str) -> Iterator[Entry]:
        nested = []
        for key, field in schema["properties"].items():
            section = _section(field, definitions)
            if section is not None:
                nested.append((f"{prefix}{key}", field, section))
            else:
                is_required = key in schema.get("required", ())
                default = ", required" if is_required else f", default {json.dumps(field['default'])}"
                values = _values(field, definitions)
                speed = ", changes no result" if field.get("runtime") else ""
                yield Entry(f"{prefix}{key}", values, f"{default}{speed}", field.get("description", ""))
                of_entries = _section(field.get("items", {}), definitions)
                if of_entries is not None:
                    yield from walk(of_entries, f"{prefix}{key}[].")
        for name, field, section in nested:
            yield Entry(name, "", "", field.get("description") or section.get("description", ""))
            yield from walk(section, f"{name}.")

    return list(walk(root, ""))


def _section(field: Schema, definitions: Schema) -> Schema | None:
    """Schema of the section that a field holds; None for a plain setting."""
    for option in field.get("anyOf", [field]):
        if "$ref" in option:
            section: Schema = definitions[option["$ref"].rpartition("/")[2]]
            return section
    return None


def _values(field: Schema, definitions: Schema) -> str:
    """Type and range of a field, e.g. `integer >= 1 or null`."""
    if "anyOf" in field:
        return " or ".join(_values(option, definitions) for option in field["anyOf"])
    if "$ref" in field:
        keys = definitions[field["$ref"].rpartition("/")[2]]["properties"]
        return f"{{{', '.join(keys)}}}"
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field["type"] == "array":
        least, most = field.get("minItems"), field.get("maxItems")
        number = f" of {least}" if least is not None and least == most else ""
        return f"list{number}, each {_values(field['items'], definitions)}"
    if field["type"] == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_values(inner, definitions)}" if isinstance(inner, dict) and inner else "mapping"
    bounds = (f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if key in field)
    return " ".join([field["type"], " and ".join(bounds)]).strip()

"""The manual of the settings as text, from the schema: name, values, default and meaning of each."""

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


class Entry(NamedTuple):
    """One setting, or a section of them. name: in full; values: what it may be set to, empty for a section"""

    name: str
    values: str
    default: str
    meaning: str

    def __str__(self) -> str:
        head = f"{self.name}: {self.values}{self.default}" if self.values else f"{self.name}:"
        return f"{head}\n{textwrap.indent(self.meaning, INDENT)}".rstrip()


def manual(section: str | None = None) -> str:
    """Every setting, or those of a section (`train`, `data.splits`), or a single one (`train.lr`, or `lr` for short).

    raises: ConfigError for a name that is none, with the nearest one
    """
    entries = list(_entries(Settings.model_json_schema()))
    if section is not None:
        names = [entry.name for entry in entries]
        wanted = {section} if section in names else {name for name in names if name.endswith(f".{section}")}
        if not wanted:
            raise ConfigError(
                f"{section} is neither a section nor a setting{did_you_mean(section, names)}; "
                "conformalsam settings lists all"
            )
        entries = [
            entry
            for entry in entries
            if any(entry.name == name or entry.name.startswith((f"{name}.", f"{name}[")) for name in wanted)
        ]
    return "\n\n".join(map(str, entries))


def _entries(root: Schema) -> Iterator[Entry]:
    """The settings at the top, then section by section, in the order of the schema."""
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

    return walk(root, "")


def _section(field: Schema, definitions: Schema) -> Schema | None:
    """The schema of the section that a field is, or that it is if it is given at all."""
    for option in field.get("anyOf", [field]):
        if "$ref" in option:
            found: Schema = definitions[option["$ref"].rpartition("/")[2]]
            return found
    return None


def _values(field: Schema, definitions: Schema) -> str:
    """What a field may be set to, e.g. `integer >= 1 or null`."""
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

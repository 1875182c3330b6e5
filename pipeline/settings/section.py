"""A section of settings, and the two kinds of fields that are not tracked: runtime and shorthand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def runtime(default: Any, **kwargs: Any) -> Any:
    """Field that changes the speed or the place of a computation, but never its result."""
    return Field(default, json_schema_extra={"runtime": True}, **kwargs)


def shorthand(default: Any, **kwargs: Any) -> Any:
    """Field from which other settings are computed when a run is loaded; these are tracked instead of it."""
    return Field(default, json_schema_extra={"shorthand": True}, **kwargs)


class Section(BaseModel):
    """A frozen group of settings; unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    def tracked(self) -> dict[str, Any]:
        """Name -> value of the settings that change results, as JSON types: for a rule's `params` and fingerprints."""
        fields = type(self).model_fields
        tracked = (name for name, field in fields.items() if not (is_runtime(field) or _is_shorthand(field)))
        return {name: _tracked_value(getattr(self, name)) for name in tracked}


def is_runtime(field: Any) -> bool:
    """Whether a field of a `Section` changes no result (`runtime`)."""
    return bool((field.json_schema_extra or {}).get("runtime", False))


def _is_shorthand(field: Any) -> bool:
    return bool((field.json_schema_extra or {}).get("shorthand", False))


def _tracked_value(value: Any) -> Any:
    if isinstance(value, Section):
        return value.tracked()
    if isinstance(value, list):
        return [_tracked_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _tracked_value(item) for key, item in value.items()}
    return value

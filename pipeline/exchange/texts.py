"""Texts that exports contain, from the templates beside this module."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The text of a template. Nothing is escaped: the texts are Markdown, Python and YAML, not HTML."""
    environment = Environment(  # nosec B701
        loader=PackageLoader("pipeline.exchange", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)

"""What makes a training recipe the one that it is called: a run file written for another recipe may not change that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError
from pipeline.settings import STAGES

KINDS = {"train": "framework", "stage1": "labels"}


class Conflict(NamedTuple):
    """A setting of a run file that makes another recipe of a preset: its name and value, and what the preset has."""

    name: str
    value: Any
    expected: str
    fix: str


def refuse_another_recipe(
    path: Path, written: Mapping[str, Any], given: Mapping[str, Any], preset: Mapping[str, Any], name: str
) -> None:
    """ConfigError if settings of run files would silently make another recipe of a preset that was chosen after them.

    A stage that the preset does not have, or no longer has; other labels in Stage I; another framework.

    path:    of the run, for the message
    written: section -> name -> value, what the run files say that do not know of the preset
    given:   full name -> value of the command line; whoever writes a setting beside the preset means it
    preset:  section -> name -> value
    """
    for conflict in _conflicts(written, preset):
        if conflict.name not in given:
            raise ConfigError(
                f"{path}: {conflict.name} is {conflict.value!r}, but the preset {name} has {conflict.expected}, and "
                f"would become another recipe; {conflict.fix}, or give it beside the preset, which is then changed on "
                f"purpose: --set preset={name} --set {conflict.name}={conflict.value}"
            )


def _conflicts(written: Mapping[str, Any], preset: Mapping[str, Any]) -> Iterator[Conflict]:
    for section in STAGES:
        own, has_stage = _section(written, section), preset[section]["fraction"] > 0
        for key in ("epochs", "fraction"):
            value = own.get(key)
            if isinstance(value, int | float) and (value > 0) != has_stage:
                expected = "epochs in that stage" if has_stage else "no epochs in that stage"
                fix = "replace it by train.total_epochs, the epochs of both stages, which every preset divides"
                yield Conflict(f"{section}.{key}", value, expected, fix)
    for section, key in KINDS.items():
        value, expected = _section(written, section).get(key), preset[section][key]
        if value is not None and value != expected:
            yield Conflict(f"{section}.{key}", value, repr(expected), "remove it")


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    own = tree.get(name)
    return own if isinstance(own, Mapping) else {}

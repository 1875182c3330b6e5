"""Refuses a run file whose settings would silently turn a preset into another training recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError
from pipeline.settings import STAGES

KINDS = {"train": "framework", "stage1": "labels"}


class Conflict(NamedTuple):
    """A setting of a run file that contradicts a preset.

    name:     full name
    value:    in the run file
    expected: what the preset has, in words
    fix:      change of the run file that resolves it
    """

    name: str
    value: Any
    expected: str
    fix: str


def refuse_another_recipe(
    path: Path, written: Mapping[str, Any], given: Mapping[str, Any], preset: Mapping[str, Any], name: str
) -> None:
    """Raise ConfigError if settings written for another recipe contradict a preset.

    A contradiction is a stage that only one of the two has, other labels in Stage I, or another framework.

    path:    of the run file, for the message
    written: section -> name -> value, of the run files that were written without regard to the preset
    given:   full name -> value, of the command line; these settings change the preset on purpose
    preset:  section -> name -> value
    name:    of the preset
    """
    for conflict in _conflicts(written, preset):
        if conflict.name not in given:
            raise ConfigError(
                f"{path}: {conflict.name} is {conflict.value!r}, but the preset {name} has {conflict.expected} and "
                f"would become another recipe; {conflict.fix}, or change the preset on purpose: --set preset={name} "
                f"--set {conflict.name}={conflict.value}"
            )


def _conflicts(written: Mapping[str, Any], preset: Mapping[str, Any]) -> Iterator[Conflict]:
    for section in STAGES:
        own, has_stage = _section(written, section), preset[section]["fraction"] > 0
        for key in ("epochs", "fraction"):
            value = own.get(key)
            if isinstance(value, int | float) and (value > 0) != has_stage:
                expected = "epochs in that stage" if has_stage else "no epochs in that stage"
                fix = "replace it by train.total_epochs, the epochs of both stages"
                yield Conflict(f"{section}.{key}", value, expected, fix)
    for section, key in KINDS.items():
        value, expected = _section(written, section).get(key), preset[section][key]
        if value is not None and value != expected:
            yield Conflict(f"{section}.{key}", value, repr(expected), "remove it")


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    own = tree.get(name)
    return own if isinstance(own, Mapping) else {}

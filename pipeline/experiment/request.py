"""The options of an experiment on Snakemake's command line: `--config table=5 seeds=3 budget=0.25`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from pipeline.errors import ConfigError
from pipeline.experiment.tables import chosen_rows
from pipeline.run_file import full_names
from pipeline.settings import did_you_mean

Protocol = Literal["steps", "epochs"]
"""Training length of the rows. steps: as many optimiser steps as the recipe of both stages takes, for every row.
epochs: the paper's epochs."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
KEYS = ("table", "seeds", "budget", "arms", "protocol")
NOT_FREE = {"seed": "set seeds=N for the seeds 0 to N-1", "preset": "remove it, because every row has its own preset"}


class Request(NamedTuple):
    """A table, its rows, and how long they train."""

    table: str
    """Name in `tables.TABLES`."""
    seeds: int = 3
    """Number of seeds: 0 to seeds - 1."""
    budget: float = 1.0
    """Factor of all training lengths."""
    arms: tuple[str, ...] | None = None
    """Keys of the rows. Default: all rows of the table."""
    protocols: tuple[Protocol, ...] = PROTOCOLS

    def as_arguments(self) -> list[str]:
        """Command-line options of the experiment's commands, from which `parse_request` restores the request."""
        words = ["--table", self.table, "--seeds", str(self.seeds), "--budget", repr(self.budget)]
        words += [] if self.arms is None else ["--arms", ",".join(self.arms)]
        return words if self.protocols == PROTOCOLS else [*words, "--protocol", ",".join(self.protocols)]

    def as_workflow_config(self) -> list[str]:
        """Words of `--config` that ask for it; what is the default is left out."""
        words = [f"table={self.table}", f"seeds={self.seeds}", f"budget={self.budget:g}"]
        words += [] if self.arms is None else [f"arms={','.join(self.arms)}"]
        words += [] if self.protocols == PROTOCOLS else [f"protocol={','.join(self.protocols)}"]
        return [word for word in words if word not in ("seeds=3", "budget=1")]


def split_request(config: Mapping[str, Any]) -> tuple[Request | None, dict[str, Any]]:
    """The request in Snakemake's `--config`, None if there is none, and the other entries.

    raises: ConfigError for a misspelled key, an invalid value, or a setting that an experiment fixes
    """
    entries = {key: value for key, value in config.items() if key in KEYS}
    rest = {key: value for key, value in config.items() if key not in KEYS}
    for key in rest:
        close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
        if close and key != "run" and not is_setting(key):
            raise ConfigError(f"{key} is not a setting; did you mean {close[0]} of the target experiment?")
    if entries and "table" not in entries:
        raise ConfigError(f"{next(iter(entries))} belongs to an experiment, but table is missing; add it, e.g. table=5")
    if not entries:
        return None, rest
    for key in rest:
        if key in NOT_FREE:
            raise ConfigError(f"{key} cannot be set in an experiment; {NOT_FREE[key]}")
    return parse_request(entries), rest


def is_setting(name: str) -> bool:
    """Whether `name` is the full or short name of a setting."""
    try:
        return bool(full_names({name: None}))
    except ConfigError:
        return False


def parse_request(entries: Mapping[str, Any]) -> Request:
    """The request in entries `table`, `seeds`, `budget`, `arms` and `protocol`; ConfigError for an invalid value."""
    table = str(entries["table"])
    arms = None if entries.get("arms") is None else tuple(_words(entries["arms"]))
    chosen_rows(table, arms)
    seeds, budget = entries.get("seeds", 3), entries.get("budget", 1.0)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise ConfigError(f"seeds must be an integer >= 1, got {seeds!r}; write e.g. seeds=3")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise ConfigError(f"budget must be a number > 0, got {budget!r}; write e.g. budget=0.25")
    return Request(table, seeds, float(budget), arms, _protocols(entries.get("protocol", "both")))


def _words(value: Any) -> Sequence[str]:
    """Words of `raw,paper` or `[raw, paper]`."""
    words = value if isinstance(value, list | tuple) else str(value).split(",")
    return [str(word).strip() for word in words]


def _protocols(value: Any) -> tuple[Protocol, ...]:
    known = [*PROTOCOLS, "both"]
    words = _words(value)
    for word in words:
        if word not in known:
            raise ConfigError(f"protocol is {word!r}, expected {', '.join(known)}{did_you_mean(word, known)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in words or "both" in words)

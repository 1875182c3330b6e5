"""What an experiment is asked for on Snakemake's command line: `--config table=5 seeds=3 budget=0.25`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from pipeline.errors import ConfigError
from pipeline.experiment.tables import chosen_rows
from pipeline.run_file import full_names
from pipeline.settings import did_you_mean

Protocol = Literal["steps", "epochs"]
"""steps: every row takes as many optimiser steps as the recipe of both stages. epochs: as many as the paper's epochs
give it."""
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
KEYS = ("table", "seeds", "budget", "arms", "protocol")
NOT_FREE = {"seed": "write seeds=N for the seeds 0 to N-1", "preset": "every row has a preset of its own; remove it"}


class Request(NamedTuple):
    table: str
    seeds: int = 3
    """The seeds are 0 to seeds - 1."""
    budget: float = 1.0
    """What all lengths are multiplied by."""
    arms: tuple[str, ...] | None = None
    """Rows to make. Default: all of the table."""
    protocols: tuple[Protocol, ...] = PROTOCOLS

    def as_arguments(self) -> list[str]:
        """Options of the experiment's commands."""
        words = ["--table", self.table, "--seeds", str(self.seeds), "--budget", repr(self.budget)]
        words += [] if self.arms is None else ["--arms", ",".join(self.arms)]
        return words if self.protocols == PROTOCOLS else [*words, "--protocol", ",".join(self.protocols)]


def split_request(config: Mapping[str, Any]) -> tuple[Request | None, dict[str, Any]]:
    """The experiment that Snakemake's `--config` asks for, None without `table`, and the other entries.

    raises: ConfigError for a key or value that cannot be meant
    """
    asked = {key: value for key, value in config.items() if key in KEYS}
    rest = {key: value for key, value in config.items() if key not in KEYS}
    for key in rest:
        close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
        if close and key != "run" and not is_setting(key):
            raise ConfigError(f"{key} is not a setting; did you mean {close[0]}, of the target experiment?")
    if asked and "table" not in asked:
        raise ConfigError(f"{next(iter(asked))} belongs to an experiment; say which one, e.g. table=5")
    if not asked:
        return None, rest
    for key in rest:
        if key in NOT_FREE:
            raise ConfigError(f"{key} is not free in an experiment: {NOT_FREE[key]}")
    return parse_request(asked), rest


def is_setting(name: str) -> bool:
    """Whether a run has such a setting, by its full or short name."""
    try:
        return bool(full_names({name: None}))
    except ConfigError:
        return False


def parse_request(asked: Mapping[str, Any]) -> Request:
    """A checked request; ConfigError says which value is wrong and what was expected."""
    table = str(asked["table"])
    arms = None if asked.get("arms") is None else tuple(_words(asked["arms"]))
    chosen_rows(table, arms)
    seeds, budget = asked.get("seeds", 3), asked.get("budget", 1.0)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise ConfigError(f"seeds must be a whole number of at least 1, got {seeds!r}")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise ConfigError(f"budget must be a number above 0 (1 is the full length), got {budget!r}")
    return Request(table, seeds, float(budget), arms, _protocols(asked.get("protocol", "both")))


def _words(value: Any) -> Sequence[str]:
    """`raw,paper` or `[raw, paper]`."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return [str(part).strip() for part in parts]


def _protocols(value: Any) -> tuple[Protocol, ...]:
    known = [*PROTOCOLS, "both"]
    words = _words(value)
    for word in words:
        if word not in known:
            raise ConfigError(f"protocol is {word!r}, expected {', '.join(known)}{did_you_mean(word, known)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in words or "both" in words)

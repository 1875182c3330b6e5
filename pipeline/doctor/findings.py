"""What the doctor says: one finding a line, each with what was found, where, and the fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
MAX_PLACES = 3  # a line names this many; --json names all


class Finding(NamedTuple):
    """One thing that the doctor found.

    level: error: the run would fail, or its result would mean nothing. warning: it would be worse than it need be, or
           not what it seems. note: a fact to know
    what:  a sentence without its full stop
    where: every file, image, class or setting that it is about
    fix:  what to do; empty for notes that ask for nothing
    """

    level: Level
    what: str
    where: tuple[str, ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        places = f": {shortened(self.where)}" if self.where else ""
        return f"{self.level:9}{self.what}{places}{f'; {self.fix}' if self.fix else ''}"


def shortened(places: Sequence[str]) -> str:
    """The first places, and how many there are besides."""
    more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
    return ", ".join(places[:MAX_PLACES]) + more


def from_message(message: str, level: Level = "error") -> Finding:
    """A finding from one of the project's messages, which name the fix after their last semicolon."""
    what, semicolon, fix = message.rpartition("; ")
    return Finding(level, what, fix=fix) if semicolon else Finding(level, message)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; in each, the order in which they came."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def counts(findings: Iterable[Finding]) -> dict[Level, int]:
    found = Counter(finding.level for finding in findings)
    return {level: found[level] for level in LEVELS}


def verdict(findings: Sequence[Finding], command: str) -> str:
    """The last line: whether to go on, and with which command."""
    number = counts(findings)
    if number["error"]:
        told = f"{_plural(number['error'], 'error')}, {_plural(number['warning'], 'warning')}"
        return f"{told}: fix the errors first"
    told = f" ({_plural(number['warning'], 'warning')} to read)" if number["warning"] else ""
    return f"nothing stands in the way{told}; run {command}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(findings: Sequence[Finding], command: str) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "findings": [finding._asdict() for finding in findings],
        "counts": counts(findings),
        "may_go_on": not counts(findings)["error"],
        "verdict": verdict(findings, command),
    }

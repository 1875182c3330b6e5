"""The output of doctor: one finding per line, with what was found, where, and the fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.settings import Settings, of_member
from pipeline.sources.image_checks import shortened

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


class Finding(NamedTuple):
    """One finding.

    level: error: the run would fail, or its result would be meaningless; warning: the result would be worse than
           necessary, or misleading; note: information
    what:  a sentence without its full stop
    where: all affected files, images, classes or settings
    fix:   what to do; empty for notes that need no action
    """

    level: Level
    what: str
    where: tuple[str, ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        where = f": {shortened(self.where)}" if self.where else ""
        return f"{self.level:9}{self.what}{where}{f'; {self.fix}' if self.fix else ''}"


def from_message(message: str, level: Level = "error") -> Finding:
    """A finding from an error message of this project. Its fix follows the last semicolon."""
    what, semicolon, fix = message.rpartition("; ")
    return Finding(level, what, fix=fix) if semicolon else Finding(level, message)


def on_annotator(settings: Settings, check: Callable[[Settings], Iterable[Finding]]) -> list[Finding]:
    """Findings of a check of the annotator, or of each member of an ensemble."""
    if not settings.members:
        return list(check(settings))
    return [_of_member(finding, name) for name, one in settings.members.items() for finding in check(one)]


def _of_member(finding: Finding, name: str) -> Finding:
    what, where = of_member(finding.what, name), tuple(of_member(one, name) for one in finding.where)
    return Finding(finding.level, f"member {name}: {what}", where, of_member(finding.fix, name))


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes. The order within a level is kept."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def counts(findings: Iterable[Finding]) -> dict[Level, int]:
    """Number of findings by level."""
    number = Counter(finding.level for finding in findings)
    return {level: number[level] for level in LEVELS}


def verdict(findings: Sequence[Finding], command: str) -> str:
    """The last line: whether the run can start, and the command that starts it."""
    number = counts(findings)
    if number["error"]:
        numbers = f"{_plural(number['error'], 'error')}, {_plural(number['warning'], 'warning')}"
        return f"{numbers}: fix the errors first"
    warnings = f" ({_plural(number['warning'], 'warning')} to read)" if number["warning"] else ""
    return f"no errors{warnings}; run {command}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(findings: Sequence[Finding], command: str) -> dict[str, Any]:
    """All findings and the verdict, for JSON."""
    return {
        "findings": [finding._asdict() for finding in findings],
        "counts": counts(findings),
        "may_go_on": not counts(findings)["error"],
        "verdict": verdict(findings, command),
    }

"""What a campaign found, and how it prints."""

from collections.abc import Sequence
from typing import NamedTuple


class Outcome(NamedTuple):
    """A table, and what went wrong: empty if every promise was kept."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    failures: Sequence[str]


def markdown(outcome: Outcome) -> str:
    """The table, then the failures as a list."""
    lines = [outcome.columns, ["---"] * len(outcome.columns), *outcome.rows]
    table = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    found = "".join(f"\n- {failure}" for failure in outcome.failures)
    return f"{table}\n\n{len(outcome.failures)} failures{found}"

"""Scores of the students as columns of the report's tables: the last and the best student of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Facts = Mapping[str, Any]


class StudentColumn(NamedTuple):
    """One student."""

    title: str
    scores: Facts
    boundary_f: Facts
    """Class name -> F-score in [0, 1]; empty if boundaries were not measured."""
    mean_boundary_f: float | None


def student_columns(receipts: Mapping[str, Facts], stage_names: Mapping[str, str]) -> list[StudentColumn]:
    """Columns of all evaluated students. A student that is both last and best has one column."""
    columns = []
    for stage, scores in receipts.get("evaluate", {}).get("students", {}).items():
        best, last = scores["best"], receipts.get(stage, {}).get("last")
        is_last = best is not None and last is not None and best["epoch"] == last["epoch"]
        columns.append(_column(stage_names[stage] + (", last and best" if is_last else ""), scores))
        if best is not None and not is_last:
            columns.append(_column(f"{stage_names[stage]}, best (epoch {best['epoch']})", best))
    return columns


def _column(title: str, scores: Facts) -> StudentColumn:
    boundary = scores["boundary"] or {"f": {}, "mean_f": None}
    return StudentColumn(title, scores, boundary["f"], boundary["mean_f"])

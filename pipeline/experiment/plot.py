"""Chart of a table: mIoU of the last students, row by row, or over the fraction of Stage I."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from markupsafe import Markup

from pipeline.drawing.charts import Estimate, Series, estimates, line_chart
from pipeline.experiment.request import Protocol
from pipeline.experiment.results import Result

PROTOCOL_NAMES: dict[Protocol, str] = {"steps": "equal steps", "epochs": "the paper's epochs"}


def chart(results: Sequence[Result]) -> Markup | None:
    """Lines over the fraction of Stage I, if the rows differ in that; else a mark for each row, with its deviation.

    returns: None if no row has a student
    """
    known = [result for result in results if any(student.last is not None for student in result.students)]
    if not known:
        return None
    if all(result.cell.row.switch is not None for result in known):
        return line_chart(
            _curves(known), "fraction of the training that is Stage I, %", "mIoU, %", "When Stage II starts"
        )
    protocol = known[0].cell.protocol
    shown = [result for result in known if result.cell.protocol == protocol]
    rows = [_mark(result) for result in shown]
    label_only = [mark for mark, result in zip(rows, shown, strict=True) if result.cell.row.key == "label-only"]
    reference = label_only[0] if label_only else rows[0]
    title = f"mIoU of the last student, {PROTOCOL_NAMES[protocol]}"
    return estimates(rows, reference.value, reference.name, title, title)


def _last(result: Result) -> list[float]:
    return [student.last for student in result.students if student.last is not None]


def _mark(result: Result) -> Estimate:
    values = _last(result)
    mean = statistics.mean(values)
    if len(values) < 2:
        return Estimate(result.cell.row.title, mean)
    deviation = statistics.stdev(values)
    return Estimate(result.cell.row.title, mean, max(0.0, mean - deviation), min(1.0, mean + deviation))


def _curves(results: Sequence[Result]) -> list[Series]:
    curves = []
    for protocol, name in PROTOCOL_NAMES.items():
        own = [result for result in results if result.cell.protocol == protocol]
        if own:
            x = [100 * (result.cell.row.switch or 0.0) for result in own]
            curves.append(Series(name, x, [100 * statistics.mean(_last(result)) for result in own]))
    return curves

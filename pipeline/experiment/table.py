"""The table as Markdown, and the facts behind it as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Protocol
from pipeline.experiment.results import Result
from pipeline.experiment.tables import table_of
from pipeline.receipt import read_receipt

PROTOCOL_TITLES: dict[Protocol, str] = {
    "steps": "Equal steps",
    "epochs": "The paper's epochs",
}
COLUMNS = ("row", "steps", "last mIoU", "best mIoU", "pixel accuracy")


def markdown(experiment: Experiment, results: Sequence[Result]) -> str:
    """The whole file."""
    lines = [f"# {table_of(experiment.request.table).title}", "", *_facts(experiment), ""]
    for protocol in experiment.request.protocols:
        own = [result for result in results if result.cell.protocol == protocol]
        lines += [f"## {PROTOCOL_TITLES[protocol]}", "", *_table(own), ""]
    lines += [f"Left out: {title}: {reason}." for title, reason in experiment.left_out.items()]
    return "\n".join(lines).rstrip() + "\n"


def _facts(experiment: Experiment) -> Iterator[str]:
    base, request = experiment.base, experiment.request
    split = read_receipt(base.folder / "prepare.json", "prepare")["num_samples"]
    yield (
        f"Run {base.name}: {split['labeled']} labelled, {split['unlabeled']} unlabelled, {split['val']} validation "
        f"images. Annotator: {annotator_of(experiment)}. Student: {base.train.student}, weights {base.train.weights}. "
        f"Seeds: {request.seeds}. Budget: {request.budget:g}. Mean ± standard deviation over the seeds, in percent."
    )


def annotator_of(experiment: Experiment) -> str:
    path = experiment.base.folder / "annotate.json"
    return str(read_receipt(path, "annotate")["annotator"]) if path.is_file() else "none"


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for result in results:
        yield f"| {' | '.join(_cells(result))} |"


def _cells(result: Result) -> list[str]:
    if result.left_out is not None:
        return [result.cell.row.title, *["–"] * (len(COLUMNS) - 2), result.left_out]
    students = result.students
    measures = [[getattr(student, name) for student in students] for name in ("last", "best", "accuracy")]
    return [result.cell.row.title, str(students[0].steps), *(spread(values) for values in measures)]


def spread(shares: Sequence[float | None]) -> str:
    """`12.3 ± 0.4`, in percent; of a single value, `12.3`."""
    values = [100 * share for share in shares if share is not None]
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def as_json(experiment: Experiment, results: Sequence[Result]) -> dict[str, Any]:
    """Every number of the table, and where it comes from."""
    return {
        "table": experiment.request.table,
        "run": experiment.base.name,
        "annotator": annotator_of(experiment),
        "budget": experiment.request.budget,
        "rows": [_row_facts(result) for result in results],
        "left_out": experiment.left_out,
    }


def _row_facts(result: Result) -> dict[str, Any]:
    students = [
        {
            "seed": student.seed,
            "steps": student.steps,
            "last": student.last,
            "best": student.best,
            "pixel_accuracy": student.accuracy,
            "receipts": student.receipts,
        }
        for student in result.students
    ]
    cell = result.cell
    return {
        "key": cell.row.key,
        "title": cell.row.title,
        "protocol": cell.protocol,
        "run": cell.run.name,
        "stage": cell.stage,
        "left_out": result.left_out,
        "students": students,
    }

"""The table as Markdown, and the facts behind it as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.experiment.paper import Column, column_beside
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Protocol
from pipeline.experiment.results import Result
from pipeline.experiment.tables import table_of
from pipeline.receipt import input_digests
from pipeline.run import Run

PROTOCOL_TITLES: dict[Protocol, str] = {
    "steps": "Equal steps: every row trains for as many optimiser steps as the recipe of both stages",
    "epochs": "The paper's epochs",
}
COLUMNS = ("row", "steps", "last mIoU", "best mIoU", "pixel accuracy")
LABEL_COLUMNS = ("labels", "precision", "keep", "mIoU kept", "mIoU all")
SET_COLUMNS = ("sets right", "of pixels", "of foreground")
NOTHING = "–"


def markdown(experiment: Experiment, results: Sequence[Result]) -> str:
    """The whole Markdown file."""
    request, table = experiment.request, table_of(experiment.request.table)
    column = paper_column(experiment)
    blocks = [[f"# {table.title}"], list(_facts(experiment)), [f"![mIoU of every row]({request.table}.svg)"]]
    for protocol in request.protocols:
        own = [result for result in results if result.cell.protocol == protocol]
        references = [key for key in table.references if any(key in result.against for result in own)]
        if table.is_of_equal_length and protocol != request.protocols[0]:
            blocks.append(
                [
                    f"## {PROTOCOL_TITLES[protocol]}",
                    "",
                    "All rows have the same number of steps, so this is the table above.",
                ]
            )
        else:
            blocks.append([f"## {PROTOCOL_TITLES[protocol]}", "", *_table(own, column, references)])
    blocks.append(list(_notes(experiment, results, column)))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def paper_column(experiment: Experiment) -> Column:
    """The paper's column for the experiment's table and data."""
    index = Run(experiment.base).samples()
    return column_beside(experiment.request.table, (sample.id for sample in index.of("labeled")))


def annotator_of(experiment: Experiment) -> str:
    """The annotator in words, `none` if the run has none."""
    run = Run(experiment.base)
    if not run.has_receipt("annotate"):
        return "none"
    name, onnx = run.recorded("annotate")["annotator"], experiment.base.annotate.onnx
    bias = getattr(onnx, "logit_bias", None)
    return f"{name}, logit_bias {bias}" if bias else name


def _facts(experiment: Experiment) -> Iterator[str]:
    base, request = experiment.base, experiment.request
    split = Run(base).recorded("prepare")["num_samples"]
    yield (
        f"Run {base.name}: {split['labeled']} labeled, {split['unlabeled']} unlabeled, {split['val']} val "
        f"images. Annotator: **{annotator_of(experiment)}**. Student: {base.train.student}, weights "
        f"{base.train.initial_weights}. {request.seeds} {'seed' if request.seeds == 1 else 'seeds'}, budget "
        f"{request.budget:g}."
    )


def _table(results: Sequence[Result], column: Column, references: Sequence[str]) -> Iterator[str]:
    has_labels = any(result.labels is not None for result in results)
    has_sets = any(result.labels is not None and result.labels.sets is not None for result in results)
    has_paper = any(result.cell.row.paper in column.numbers for result in results)
    heads = [*COLUMNS, *(f"against {key}" for key in references)]
    heads += LABEL_COLUMNS if has_labels else ()
    heads += SET_COLUMNS if has_sets else ()
    heads += [f"paper, {column.split}"] if has_paper else []
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for result in results:
        cells = [result.cell.row.title, *_scores(result), *(_gap(result, key) for key in references)]
        cells += _labels(result) if has_labels else []
        cells += _sets(result) if has_sets else []
        cells += [_of_paper(result, column)] if has_paper else []
        yield f"| {' | '.join(cells)} |"


def _scores(result: Result) -> list[str]:
    if not result.students:
        return [NOTHING] * (len(COLUMNS) - 1)
    steps = result.students[0].steps
    measures = [[getattr(student, name) for student in result.students] for name in ("last", "best", "accuracy")]
    return [str(steps), *(spread(values) for values in measures)]


def _gap(result: Result, key: str) -> str:
    gap = result.against.get(key)
    return NOTHING if gap is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in gap))


def _labels(result: Result) -> list[str]:
    if result.labels is None:
        return [NOTHING] * len(LABEL_COLUMNS)
    quality = result.labels.quality or {}
    measures = (quality.get(name) for name in ("precision", "keep_rate", "miou", "miou_all"))
    return [result.labels.made_with, *(spread([value]) for value in measures)]


def _sets(result: Result) -> list[str]:
    measures = (result.labels.sets if result.labels is not None else None) or {}
    return [spread([measures.get(name)]) for name in ("right", "pixels", "foreground")]


def _of_paper(result: Result, column: Column) -> str:
    number = column.numbers.get(result.cell.row.paper or "")
    return NOTHING if number is None else f"{number:.2f}"


def _notes(experiment: Experiment, results: Sequence[Result], column: Column) -> Iterator[str]:
    yield (
        "Per cent; mean ± standard deviation over the seeds. `last` is the student at the end of its stage, `best` the "
        "best of its learning curve on the val images, as the literature reports it. If the table has rows of both "
        "stages, a row of Stage I under the paper's epochs is a training of both stages at the end of its Stage I, "
        "where the learning rate is not yet 0; under equal steps its training is complete."
    )
    if any(result.against for result in results):
        yield (
            "`against`: difference of the last students' mIoU, with its 95 % interval over val images and seeds "
            "(paired: the same images are drawn for both)."
        )
    if any(result.labels is not None and result.labels.quality is not None for result in results):
        yield (
            "Labels: those of the unlabeled images, measured with masks that only this table uses. `mIoU kept` counts "
            "labeled pixels only; in `mIoU all` a pixel without a label counts as missed."
        )
    if any(result.labels is not None and result.labels.sets is not None for result in results):
        yield (
            "Sets: those of the pixels that have no label, but a set of several classes that is not the set of all. "
            "`sets right` is the fraction of them that hold the true class, `of pixels` and `of foreground` their "
            "fraction of all pixels and of those of a foreground class."
        )
    if any(result.cell.row.paper in column.numbers for result in results):
        other = "" if column.is_ours else "; another data set, shown to compare the order of the rows"
        yield f"The paper's numbers are those of {column.split}, annotator SEEM, student SegFormer-B5{other}."
    for result in results:
        if result.left_out is not None:
            yield f"Left out: {result.cell.row.title}: {result.left_out}."
    for title, reason in experiment.left_out.items():
        yield f"Left out: {title}: {reason}."


def spread(fractions: Sequence[float | None]) -> str:
    """`12.3 ± 0.4`, mean and standard deviation in per cent; `12.3` for a single value, a dash for none."""
    values = [100 * fraction for fraction in fractions if fraction is not None]
    if not values:
        return NOTHING
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def as_json(experiment: Experiment, results: Sequence[Result]) -> dict[str, Any]:
    """Every number of the table, with the receipts behind it, as JSON types."""
    column = paper_column(experiment)
    return {
        "table": experiment.request.table,
        "run": experiment.base.name,
        "annotator": annotator_of(experiment),
        "student": experiment.base.train.student,
        "budget": experiment.request.budget,
        "paper": {"split": column.split, "is_ours": column.is_ours},
        "rows": [_row_facts(result, column) for result in results],
        "left_out": experiment.left_out,
        "inputs": input_digests(experiment.table_inputs()),
    }


def _row_facts(result: Result, column: Column) -> dict[str, Any]:
    cell, labels = result.cell, result.labels
    kept = ("seed", "steps", "last", "best", "accuracy", "receipts")
    return {
        "key": cell.row.key,
        "title": cell.row.title,
        "protocol": cell.protocol,
        "run": cell.run.name,
        "stage": cell.stage,
        "paper": column.numbers.get(cell.row.paper or ""),
        "against": {key: gap._asdict() for key, gap in result.against.items()},
        "labels": None if labels is None else labels._asdict(),
        "left_out": result.left_out,
        "students": [{name: getattr(student, name) for name in kept} for student in result.students],
    }

"""Marks: the outputs of Snakemake's rules, one empty file per finished stage, which follow from the receipts.

Snakemake deletes the outputs of a rule before it starts the rule's job. A stage that then refuses its inputs must not
lose its receipt, because a stage without a receipt is repeated. So Snakemake owns only the marks. They are created and
removed to agree with the receipts before every call of Snakemake, whoever has run the stages.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipeline.receipt import SCHEMAS
from pipeline.run import Run


def mark_of(receipt: Path) -> Path:
    """Path of the mark of a stage, by its receipt."""
    return receipt.with_name(f".{receipt.stem}.finished")


def update_marks(run: Run) -> dict[str, bool]:
    """Create or remove the mark of every stage.

    A stage has a mark if it and all stages before it are finished with these settings, images and masks, and it has
    read what they wrote last.

    returns: stage -> whether it has a mark
    raises:  OSError if the run's folder cannot be written
    """
    marked: dict[str, bool] = {}
    for stage in SCHEMAS:
        before = run.inputs(stage)
        is_current = all(marked[one] for one in before) and run.is_current(stage)
        follows = run.follows_inputs(stage) if is_current else False
        marked[stage] = follows is not False
        # a stage that follows its inputs is not older than they are, whatever the clocks say
        inputs = [mark_of(run.folder.receipt(one)) for one in before] if follows else []
        update_mark(run.folder.receipt(stage), marked[stage], run.result(stage), *inputs)
    return marked


def update_mark(receipt: Path, is_finished: bool, *results: Path) -> None:
    """Create the mark of a receipt, or remove it; its modification time is the latest of the results'. OSError.

    It is never in the future, although a result may be: Snakemake refuses the output of a job that is older than its
    input.
    """
    mark = mark_of(receipt)
    if not is_finished:
        mark.unlink(missing_ok=True)
        return
    latest = max(result.stat().st_mtime_ns for result in results)
    if mark.exists() and mark.stat().st_mtime_ns == latest <= time.time_ns():
        return
    mark.touch()
    time_of_mark = min(latest, mark.stat().st_mtime_ns)  # by the clock of the disk, which may be another machine's
    os.utime(mark, ns=(time_of_mark, time_of_mark))

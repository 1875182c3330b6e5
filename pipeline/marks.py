"""Marks: the outputs of Snakemake's rules, one empty file per finished stage, which follow from the receipts.

Snakemake deletes the outputs of a rule before it starts the rule's job. A stage that then refuses its inputs must not
lose its receipt, because a stage without a receipt is repeated. So Snakemake owns only the marks. They are created and
removed to agree with the receipts before every call of Snakemake, whoever has run the stages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pipeline.dependencies import receipts_before
from pipeline.receipt import SCHEMAS, follows, read_receipt, result_of
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
    return {
        stage: update_mark(
            run.folder.receipt(stage), stage, receipts_before(run.settings, stage), partial(run.is_current, stage)
        )
        for stage in SCHEMAS
    }


def update_mark(receipt: Path, stage: str, inputs: Mapping[str, Path], is_current: Callable[[], bool]) -> bool:
    """Create the mark of a receipt, or remove it.

    stage:      that the receipt is of
    inputs:     name -> receipt of what it is made from, whose marks have been updated
    is_current: whether it has finished with these settings, images and masks; called if all inputs have marks
    returns:    whether it has a mark: all inputs have one, it is current, and it has read what they wrote last
    raises:     OSError if the folder cannot be written
    """
    before = [mark_of(one) for one in inputs.values()]
    does_follow = all(map(Path.is_file, before)) and is_current() and follows(read_receipt(receipt, stage), inputs)
    is_finished = does_follow is not False
    # what follows its inputs is not older than they are, whatever the clocks say
    _set_mark(receipt, is_finished, result_of(receipt), *(before if does_follow else ()))
    return is_finished


def _set_mark(receipt: Path, is_finished: bool, *results: Path) -> None:
    """Create the mark of a receipt with the latest modification time of the results, or remove it. OSError.

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

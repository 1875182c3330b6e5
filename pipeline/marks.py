"""Marks: the outputs of Snakemake's rules, one empty file per finished stage, which follow from the receipts.

Snakemake deletes the outputs of a rule before it starts the rule's job. A stage that then refuses its inputs must not
lose its receipt, because a stage without a receipt is repeated. So Snakemake owns only the marks. They are created and
removed to agree with the receipts before every call of Snakemake, whoever has run the stages.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.receipt import SCHEMAS
from pipeline.run import Run


def mark_of(receipt: Path) -> Path:
    """Path of the mark of a stage, by its receipt."""
    return receipt.with_name(f".{receipt.stem}.finished")


def update_marks(run: Run) -> dict[str, bool]:
    """Create or remove the mark of every stage.

    A stage has a mark if it and all stages before it are finished with these settings, images and masks.

    returns: stage -> whether it has a mark
    raises:  OSError if the run's folder cannot be written
    """
    marked: dict[str, bool] = {}
    for stage in SCHEMAS:
        marked[stage] = all(marked[before] for before in run.inputs(stage)) and run.is_current(stage)
        # what follows depends on the samples: a repeated prepare that lists the same ones repeats nothing
        result = run.folder.samples if stage == "prepare" else run.folder.receipt(stage)
        update_mark(run.folder.receipt(stage), marked[stage], result)
    return marked


def update_mark(receipt: Path, is_finished: bool, result: Path) -> None:
    """Create the mark of a receipt with the modification time of the result, or remove it; OSError."""
    mark = mark_of(receipt)
    if not is_finished:
        mark.unlink(missing_ok=True)
        return
    written = result.stat().st_mtime_ns
    if not mark.exists() or mark.stat().st_mtime_ns != written:
        mark.touch()
        os.utime(mark, ns=(written, written))

"""What an import of masks found, and the numbers of the run before it, for the report that follows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.calibration.rows import find_row
from pipeline.datasets import IGNORE_INDEX, SampleIndex, read_mask
from pipeline.errors import UserError
from pipeline.exchange.corrected_masks import CorrectedMasks
from pipeline.exchange.labels import ExportedLabels, open_exported
from pipeline.record import write_record
from pipeline.run import Run

log = logging.getLogger(__name__)

Facts = dict[str, Any]


def record_import(run: Run, index: SampleIndex, masks: CorrectedMasks, ids: Sequence[str]) -> None:
    """Write `imported.json` of the run: imported ids, how right their labels were, and the numbers before the import.

    To be called when the masks are in place, and the labels and receipts are still those of before.

    index: the samples of before
    ids:   of the images whose masks were imported
    """
    facts = {
        "ids": list(ids),
        "labels": compared_labels(run, masks, ids),
        "before": numbers_of(run) | {"labeled": [sample.id for sample in index.of("labeled")]},
    }
    write_record(run.folder.imported, facts)


def compared_labels(run: Run, masks: CorrectedMasks, ids: Sequence[str]) -> Facts | None:
    """The labels of the imported images against their masks, in pixels of the images' own size.

    returns: num_images, pixels that have a class in the masks, labeled and right ones of them; None without labels
    """
    try:
        exported = open_exported(run.folder.labels)
        compared = [_compare(exported, masks, run, one) for one in ids if one in exported.index_of]
    except UserError as error:
        log.info("import-masks: the labels of the images are not compared with their masks: %s", error)
        return None
    if not compared:
        return None
    pixels, labeled, right = np.sum(compared, axis=0).tolist()
    return {"num_images": len(compared), "pixels": pixels, "labeled": labeled, "right": right}


def _compare(exported: ExportedLabels, masks: CorrectedMasks, run: Run, sample_id: str) -> tuple[int, int, int]:
    mask, label = read_mask(masks.mask(sample_id), run.settings.data), exported.label(exported.index_of[sample_id])
    has_class = mask != IGNORE_INDEX
    is_labeled = has_class & (label != IGNORE_INDEX)
    return int(has_class.sum()), int(is_labeled.sum()), int((is_labeled & (mask == label)).sum())


def numbers_of(run: Run) -> Facts:
    """precision and keep_rate on held-out images, and miou of the student, in [0, 1]; None for what there is not."""
    labels, evaluated = _recorded(run, "pseudolabel"), _recorded(run, "evaluate")
    calibrated = _recorded(run, "calibrate")
    row = None
    if labels is not None and calibrated is not None:
        row = find_row(calibrated["held_out"], labels["variant"], labels["alpha"], labels["rule"])
    numbers = {name: row and row[name] and row[name]["value"] for name in ("precision", "keep_rate")}
    return numbers | {"miou": None if evaluated is None else evaluated["students"][evaluated["final"]]["miou"]}


def _recorded(run: Run, stage: str) -> Mapping[str, Any] | None:
    try:
        facts = run.recorded(stage) if run.has_receipt(stage) else None
        if stage == "evaluate" and facts is not None:
            run.refuse_other_students(run.recorded("evaluate"))
        return facts
    except UserError:  # damaged, or of another student: the report does without it
        return None

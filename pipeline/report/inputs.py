"""What the report is made from: receipts and stores that belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.datasets import SampleIndex
from pipeline.report.probe import probe_receipt
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources import TrueMasks
from pipeline.store import CalibrationStore, LabelStore, ProbabilityStore, store_exists

log = logging.getLogger(__name__)

LABELING = ("prepare", "annotate", "calibrate", "pseudolabel")
TRAINING = ("stage1", "stage2", "evaluate")


class Inputs(NamedTuple):
    """Results of the earlier stages; `probabilities` is None if that cache was deleted.

    The alpha of the labels is in the label store: rule auto may have chosen another one than calibrate.alpha.
    """

    receipts: dict[str, Mapping[str, Any]]
    samples: SampleIndex
    true_masks: TrueMasks
    probabilities: ProbabilityStore | None
    calibration: CalibrationStore
    labels: LabelStore


def open_inputs(settings: Settings) -> Inputs:
    """Receipts and stores; StoreError unless they belong together."""
    run = Run(settings)
    receipts: dict[str, Mapping[str, Any]] = {stage: run.receipt(stage) for stage in LABELING}
    calibration, labels = run.open_calibration(), run.open_labels()
    receipts |= probe_receipt(run, calibration.fingerprint)
    receipts |= training_receipts(run, labels.fingerprint) | baseline_receipt(run)
    probabilities = run.open_probabilities() if store_exists(run.folder.probabilities) else None
    samples = run.samples("report")
    return Inputs(receipts, samples, TrueMasks.like_labeled(samples, settings.data), probabilities, calibration, labels)


def training_receipts(run: Run, labels_fingerprint: str) -> dict[str, Mapping[str, Any]]:
    """Receipts of the training stages that have finished; {} if the student was trained on other labels.

    raises: StoreError if a student was trained again since it was measured
    """
    receipts: dict[str, Mapping[str, Any]] = {
        stage: run.recorded(stage) for stage in TRAINING if run.has_receipt(stage)
    }
    trained_on = receipts.get("stage1", {}).get("labels_fingerprint", "unknown")
    if receipts and trained_on not in (labels_fingerprint, None):  # None: trained on the labeled images alone
        log.warning(
            "report: the student in %s was trained on other labels and is left out; run %s",
            run.folder.path,
            run.command("evaluate", rerun="stage1"),
        )
        return {}
    if run.has_receipt("evaluate"):
        run.refuse_other_students(run.recorded("evaluate"))
    return receipts


def baseline_receipt(run: Run) -> dict[str, Mapping[str, Any]]:
    """`{"baseline": receipt}`; {} if it has not finished with these settings, images and masks."""
    return {"baseline": run.recorded("baseline")} if run.is_current("baseline") else {}

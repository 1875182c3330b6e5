"""Results of `conformalsam probe`, as rows of the report's table."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.run import Run

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]

FIELDS = ("labels", "variant", "alpha", "rule", "weight")  # that identify a way to train


class ProbeRow(NamedTuple):
    """One way to train.

    weight:          of the unlabeled loss; None for the labeled images alone
    miou:            in [0, 1]
    to_none, to_raw: difference of mIoU to labels alone and to the annotator's argmax; None for that row itself
    """

    labels: str
    weight: float | None
    miou: float
    to_none: Facts | None
    to_raw: Facts | None
    is_chosen: bool


def probe_receipt(run: Run, calibration: str) -> dict[str, Facts]:
    """`{"probe": receipt}`; {} if there is no receipt, or one of another calibration.

    calibration: fingerprint of calibration.zarr
    """
    if not run.has_receipt("probe"):
        return {}
    receipt = run.recorded("probe")
    if receipt["fingerprint"] != calibration:
        log.warning(
            "report: %s belongs to another calibration and is left out; to write it again, run %s",
            run.folder.receipt("probe"),
            run.command("probe", rerun="probe"),
        )
        return {}
    return {"probe": receipt}


def probe_rows(receipts: Mapping[str, Facts]) -> list[ProbeRow]:
    """One row per way to train; none without a probe."""
    if "probe" not in receipts:
        return []
    chosen = receipts["probe"]["chosen"]
    return [
        ProbeRow(
            _labels(outcome),
            outcome["weight"] or None,
            outcome["miou"],
            None if outcome["labels"] == "none" else outcome["to_none"],
            None if outcome["labels"] == "raw" else outcome["to_raw"],
            all(outcome[name] == chosen[name] for name in FIELDS),
        )
        for outcome in receipts["probe"]["outcomes"]
    ]


def _labels(outcome: Facts) -> str:
    match outcome["labels"]:
        case "none":
            return "none: the labeled images alone"
        case "raw":
            return "the annotator’s argmax"
        case _:
            return f"calibrated: variant {outcome['variant']}, α = {outcome['alpha']:g}, rule {outcome['rule']}"

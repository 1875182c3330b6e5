"""Calibrated labels beside the annotator's own argmax, in one sentence that log, inspect, report and gallery share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import calib
from pipeline.calibration.cross_fitting import candidates, find_row

Facts = Mapping[str, Any]


def verdict(held_out: Facts | None, variant: str, alpha: float, rule: str) -> str | None:
    """What the labels of a variant, alpha and rule are worth on held-out images, and what the argmax is, and so what to
    train on; of rule raw, beside the best calibrated labels. None if held-out images cannot tell.

    held_out: of the receipt of calibrate
    """
    row = find_row(held_out, variant, alpha, rule)
    if held_out is None or row is None or held_out["raw"]["precision"] is None:
        return None
    if rule != "raw":
        return _beside_raw(row, held_out["raw"], "the calibrated labels are")
    raw, *others = candidates(held_out)
    # a calibration that labels every pixel by the argmax is no other than that
    calibrated = [candidate for candidate in others if candidate.keep_rate and candidate[3:] != raw[3:]]
    if not calibrated:
        return None
    best = calib.rank(calibrated)[0][0]
    row = find_row(held_out, best.variant, best.alpha, best.rule)
    assert row is not None
    named = f"variant {best.variant}, alpha {best.alpha:g}, rule {best.rule}"
    return _beside_raw(
        row, held_out["raw"], f"the labels are the annotator's own argmax; calibrated ones ({named}) are"
    )


def _beside_raw(row: Facts, raw: Facts, labels: str) -> str | None:
    against = row["against_raw"]
    if row["precision"] is None or against["miou"] is None:
        return None
    return (
        f"{labels} {_percent(row['precision'])} right on held-out images, where the annotator's own argmax is "
        f"{_percent(raw['precision'])} right (all pixels) and {_percent(against['same_keep'])} at the same keep rate "
        f"({_percent(row['keep_rate'])}); mIoU of the labels {_points(row['miou']['value'])} against "
        f"{_points(raw['miou']['value'])} ({_signed(against['miou']['value'])}, 95 % interval "
        f"{_signed(against['miou']['low'])} to {_signed(against['miou']['high'])}): {_advice(against['miou'])}"
    )


def _advice(difference: Mapping[str, float]) -> str:
    """What to train on, by the mIoU of the labels minus that of the argmax."""
    if difference["low"] > 0:
        return "calibration pays, train on the calibrated labels"
    if difference["high"] < 0:
        return "calibration costs more than it brings, train on the raw argmax (rule=raw)"
    return "no difference beyond noise"


def _percent(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"

"""The verdict: calibrated labels against the annotator's own argmax, in one sentence, the same wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import calib
from pipeline.calibration.rows import candidates, find_row
from pipeline.datasets import in_groups

Facts = Mapping[str, Any]


def verdict(held_out: Facts | None, variant: str, alpha: float, rule: str) -> str | None:
    """Compare the labels of a variant, alpha and rule with the argmax on held-out images, and recommend one of them.

    For rule raw the best calibrated labels are compared with the argmax.

    held_out: of the receipt of calibrate
    returns:  one sentence without a full stop; None if there are no held-out estimates to compare
    """
    row = find_row(held_out, variant, alpha, rule)
    if held_out is None or row is None or held_out["raw"]["precision"] is None:
        return None
    if rule != "raw":
        return _against_raw(row, held_out, "the calibrated labels")
    _, *others = calib.without_equal_labels(candidates(held_out))  # without those that are the argmax
    calibrated = [candidate for candidate in others if candidate.keep_rate]
    if not calibrated:
        return None
    best = calib.rank(calibrated)[0][0]
    row = find_row(held_out, best.variant, best.alpha, best.rule)
    assert row is not None
    combination = f"variant {best.variant}, alpha {best.alpha:g}, rule {best.rule}"
    return _against_raw(
        row, held_out, f"the labels are the annotator's own argmax; the best calibrated labels ({combination})"
    )


def _against_raw(row: Facts, held_out: Facts, labels: str) -> str | None:
    against, raw = row["against_raw"], held_out["raw"]
    if row["precision"] is None or against["miou"] is None:
        return None
    return (
        f"{labels} have a held-out precision of {_percent(row['precision'])}, the annotator's own argmax of "
        f"{_percent(raw['precision'])} (all pixels) and {_percent(against['same_keep'])} (at the same keep rate, "
        f"{_percent(row['keep_rate'])}); mIoU of the labels {points(row['miou']['value'])} against "
        f"{points(raw['miou']['value'])} ({interval_text(against['miou'], against['miou_is_larger'], held_out)}): "
        f"{advice(against['miou'])}"
    )


def interval_text(difference: Mapping[str, float], is_larger: float, held_out: Facts) -> str:
    """A difference in mIoU in points with its interval, and the fraction of the bootstrap samples above zero.

    held_out: of the receipt of calibrate, with the number of groups
    """
    groups = held_out.get("num_groups")
    over = "" if groups is None else f" over {in_groups(held_out['num_images'], groups)}"
    return (
        f"{_signed(difference['value'])}, 95 % interval{over} {_signed(difference['low'])} to "
        f"{_signed(difference['high'])}, above zero in {100 * is_larger:.0f} % of the bootstrap samples"
    )


def advice(difference: Mapping[str, float]) -> str:
    """The recommendation. difference: mIoU of the labels minus mIoU of the argmax, with its 95 % interval."""
    if difference["low"] > 0:
        return "calibration is better, train on the calibrated labels"
    if difference["high"] < 0:
        return "calibration is worse, train on the raw argmax (rule=raw)"
    return "no difference beyond noise"


def _percent(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} %"


def points(fraction: float) -> str:
    """`59.4` of 0.594."""
    return f"{100 * fraction:.1f}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}"

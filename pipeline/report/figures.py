"""The figures of the report: charts and maps from receipts and arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

import calib
from pipeline.calibration.guarantee import Guarantee
from pipeline.drawing.charts import Estimate, Series, estimates, histogram, line_chart, quantiles, stacked_bar
from pipeline.drawing.pictures import data_uri, value_map
from pipeline.palette import scale_colours
from pipeline.report.estimates import Estimates, wrong_fraction

NUM_BINS = 20
MAP_SIDE = 480  # pixels of the longer side of a map in the page
OF_KEPT = "of the kept: "
STAGE_NAMES = {"stage1": "Stage I", "stage2": "Stage II"}

Facts = Mapping[str, Any]


class ThresholdMap(NamedTuple):
    """The thresholds as a picture.

    map_uri, scale_uri: `data:` URIs of the map and its colour scale; None if all locations have the same threshold
    low, high:          ends of the colour scale; None if no threshold is finite
    """

    map_uri: str | None
    scale_uri: str | None
    low: float | None
    high: float | None


def threshold_map(q_hat: npt.NDArray[np.float32]) -> ThresholdMap:
    """Map of the thresholds; locations without a finite one are hatched. q_hat: float32 [H, W] or [K, H, W]."""
    shown = shown_thresholds(q_hat)
    finite = shown[np.isfinite(shown)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    if finite.size and np.array_equal(q_hat, np.broadcast_to(q_hat[..., :1, :1], q_hat.shape), equal_nan=True):
        return ThresholdMap(None, None, low, high)
    step = max(1, math.ceil(max(shown.shape) / MAP_SIDE))
    picture = value_map(shown[::step, ::step], low or 0.0, 1.0 if high is None else high)
    scale = np.repeat(scale_colours()[None], 12, axis=0)
    return ThresholdMap(data_uri(picture, "png"), data_uri(scale, "png"), low, high)


def shown_thresholds(q_hat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32 [H, W]: thresholds [H, W] themselves, or the median of the finite ones of [K, H, W], NaN without any."""
    if q_hat.ndim == 2:
        return q_hat
    finite = np.where(np.isfinite(q_hat), q_hat, np.float32(np.nan))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")
        median: npt.NDArray[np.float32] = np.nanmedian(finite, axis=0).astype(np.float32)
    return median


def threshold_histogram(q_hat: npt.NDArray[np.float32]) -> Markup | None:
    """Histogram of the finite thresholds; None if there are none. q_hat: float32 [H, W] or [K, H, W]."""
    finite = q_hat[np.isfinite(q_hat)]
    if not finite.size:
        return None
    counts = np.histogram(finite, NUM_BINS, (0, 1))[0].tolist()
    unit = "locations" if q_hat.ndim == 2 else "locations and classes"
    return histogram(counts, (0.0, 1.0), "threshold", unit, f"Number of {unit} by threshold")


class ClassThresholds(NamedTuple):
    """Thresholds of one class.

    low, median, high: of the finite ones; None if there are none
    not_finite:        fraction of the locations without a finite one
    """

    name: str
    low: float | None
    median: float | None
    high: float | None
    not_finite: float


def class_thresholds(q_hat: npt.NDArray[np.float32], class_names: Sequence[str]) -> list[ClassThresholds]:
    """One row per class of thresholds [K, H, W]; no rows of thresholds [H, W]."""
    rows = []
    for name, values in zip(class_names, q_hat, strict=True) if q_hat.ndim == 3 else ():
        finite = values[np.isfinite(values)]
        numbers = [float(f(finite)) for f in (np.min, np.median, np.max)] if finite.size else [None] * 3
        rows.append(ClassThresholds(name, *numbers, 1 - finite.size / values.size))
    return rows


def keep_rate_histogram(keep_rates: npt.NDArray[np.floating]) -> Markup:
    """Histogram of the keep rates of images, float [N] in [0, 1]."""
    counts = np.histogram(keep_rates, NUM_BINS, (0, 1))[0].tolist()
    title = "Number of images by keep rate"
    return histogram(counts, (0.0, 1.0), "keep rate of the image", "images", title, is_fraction=True)


class Outcome(NamedTuple):
    """A kind of pixels: those with a label, or those without one for the same reason.

    kind:         CSS class
    fraction:     of all pixels
    is_of_others: already counted in another row
    """

    kind: str
    title: str
    pixels: int
    fraction: float
    meaning: str
    is_of_others: bool


def outcomes(facts: Facts, has_background: bool, is_class_wise: bool) -> list[Outcome]:
    """Kinds of pixels, from the receipt of pseudolabel. Those that are not `is_of_others` add up to all pixels.

    Pixels without a threshold may be labeled (`uncalibrated: accept`), so at most as many are without a label. The
    remaining pixels without a label are those whose set the rule leaves unlabeled although it holds a class.
    """
    pixels, rule = facts["pixels"], calib.find_rule(facts["rule"])
    rest = pixels["pixels"] - pixels["kept"] - pixels["empty"]
    no_threshold = min(rest, pixels["uncalibrated"])
    rows = {
        "kept": ("kept", pixels["kept"], "has a pseudo-label"),
        "empty": ("empty set", pixels["empty"], "no class is probable enough"),
        "uncalibrated": ("no threshold", no_threshold, "too few labeled images have a class at this location"),
    }
    if rule.can_leave_classes(is_class_wise):
        title, why = rule.unlabeled or ("not labeled", "the rule labels no class of the set")
        rows["ambiguous"] = (title, rest - no_threshold, why)
    if has_background:
        overruled, only = pixels["background_overruled"], pixels["background_only"]
        rows["overruled"] = (OF_KEPT + "overruled", overruled, "foreground, although background is more probable")
        rows["background"] = (OF_KEPT + "background only", only, "background is the only class in the set")
    total = max(pixels["pixels"], 1)
    return [
        Outcome(kind, title, count, count / total, why, title.startswith(OF_KEPT))
        for kind, (title, count, why) in rows.items()
    ]


def outcome_bar(rows: Sequence[Outcome]) -> Markup:
    """The rows as one bar, without those that are counted in another row."""
    segments = [(row.kind, row.fraction) for row in rows if not row.is_of_others]
    words = ", ".join(f"{row.title} {100 * row.fraction:.1f} %" for row in rows)
    return stacked_bar(segments, f"Pixels of the unlabeled images: {words}")


def trust_chart(held_out: Estimates | None, audit: Facts | None, guarantee: Guarantee) -> Markup | None:
    """Coverage (under risk: the fraction of wrong labels), which has a guarantee, beside precision, which has none."""
    rows = _wrong_rows(held_out, audit) if guarantee.is_risk else _coverage_rows(held_out, audit)
    if held_out is not None:
        rows.append(("precision, held-out images", held_out.row["precision"]))
        rows.append(("annotator's argmax, held-out images", held_out.raw.precision))
        if held_out.used.same_keep is not None:
            rows.append(("annotator, same keep rate, held-out", held_out.used.same_keep))
    if audit is not None:
        rows.append(("precision, unlabeled images", {"value": audit["kept"]["precision"]}))
        rows.append(("annotator's argmax, unlabeled images", {"value": audit["raw"]["pixel_accuracy"]}))
    known = [Estimate(name, **estimate) for name, estimate in rows if estimate and estimate["value"] is not None]
    measure = "Wrong labels" if guarantee.is_risk else "Coverage"
    title = f"{measure}, precision and target"
    return estimates(known, guarantee.target, guarantee.target_name, title) if known else None


def _coverage_rows(held_out: Estimates | None, audit: Facts | None) -> list[tuple[str, Facts | None]]:
    rows: list[tuple[str, Facts | None]] = []
    if held_out is not None:
        name = "coverage, held-out images" + _without_threshold(held_out.row["uncalibrated"])
        rows.append((name, held_out.row["coverage"]))
    if audit is not None:
        name = "coverage, unlabeled images" + _without_threshold(audit["coverage"]["uncalibrated_fraction"])
        rows.append((name, {"value": audit["coverage"]["coverage"]}))
    return rows


def _wrong_rows(held_out: Estimates | None, audit: Facts | None) -> list[tuple[str, Facts | None]]:
    rows: list[tuple[str, Facts | None]] = []
    if held_out is not None:
        rows.append(("labeled wrong, held-out images", held_out.row["wrong"]))
    if audit is not None:
        wrong = wrong_fraction(audit["kept"]["precision"], audit["kept"]["keep_rate"])
        rows.append(("labeled wrong, unlabeled images", {"value": wrong}))
    return rows


def _without_threshold(uncalibrated: float | None) -> str:
    return f" ({100 * uncalibrated:.1f} % without threshold)" if uncalibrated else ""


def coverage_chart(held_out: Estimates | None, guarantee: Guarantee) -> Markup | None:
    """Deciles of the coverage of held-out images; None if there are none."""
    deciles = held_out.row["coverage_per_image"] if held_out else []
    if not deciles:
        return None
    target = None if guarantee.is_risk else guarantee.target
    title = "Coverage of held-out images, lowest first"
    return quantiles(deciles, target, "held-out images, lowest coverage first", "coverage", title)


def learning_curves(receipts: Mapping[str, Facts], key: str, factor: float, y_label: str, title: str) -> Markup | None:
    """`factor` times `loss` or `miou` over the training steps of both stages; None if nothing was recorded."""
    lines, before = [], 0
    for stage, name in STAGE_NAMES.items():
        facts = receipts.get(stage, {})
        entries = [entry for entry in facts.get("history", []) if entry.get(key) is not None]
        if entries:
            x, y = [before + entry["step"] for entry in entries], [factor * entry[key] for entry in entries]
            lines.append(Series(name, x, y))
        before += facts.get("num_steps", 0)
    return line_chart(lines, "training step", y_label, title) if lines else None

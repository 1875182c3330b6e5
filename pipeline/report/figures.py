"""The figures of the report: from receipts and arrays to charts and maps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

import calib
from pipeline.calibration.promise import Promise
from pipeline.drawing.charts import Estimate, Series, estimates, histogram, line_chart, quantiles, stacked_bar
from pipeline.drawing.pictures import data_uri, value_map
from pipeline.palette import scale_colours
from pipeline.report.held_out import HeldOut, wrong_fraction

NUM_BINS = 20
MAP_SIDE = 480  # pixels of the longer side of a map in the page
STAGE_NAMES = {"stage1": "Stage I", "stage2": "Stage II"}

Facts = Mapping[str, Any]


class ThresholdMap(NamedTuple):
    """The thresholds as a picture, with the ends of its colour scale, None if there is no finite threshold.

    uris are None where a picture would say no more than numbers: the thresholds are the same at all locations.
    """

    map_uri: str | None
    scale_uri: str | None
    low: float | None
    high: float | None


def threshold_map(q_hat: npt.NDArray[np.float32]) -> ThresholdMap:
    """Draw q-hat, [H, W] or class-wise [K, H, W]; locations without a finite threshold are hatched."""
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
    """float32 [H, W]: q-hat itself; of class-wise ones [K, H, W] the median of the finite ones, NaN if none is."""
    if q_hat.ndim == 2:
        return q_hat
    finite = np.where(np.isfinite(q_hat), q_hat, np.float32(np.nan))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")
        median: npt.NDArray[np.float32] = np.nanmedian(finite, axis=0).astype(np.float32)
    return median


def threshold_histogram(q_hat: npt.NDArray[np.float32]) -> Markup | None:
    """How many locations (class-wise: locations of a class) have which threshold; None if none is finite."""
    finite = q_hat[np.isfinite(q_hat)]
    if not finite.size:
        return None
    counts = np.histogram(finite, NUM_BINS, (0, 1))[0].tolist()
    what = "locations" if q_hat.ndim == 2 else "locations of a class"
    return histogram(counts, (0.0, 1.0), "threshold", what, f"How many {what} have which threshold")


class ClassThresholds(NamedTuple):
    """Finite thresholds of one class over the locations, None if none is finite, and the share that is not."""

    name: str
    low: float | None
    median: float | None
    high: float | None
    not_finite: float


def class_thresholds(q_hat: npt.NDArray[np.float32], class_names: Sequence[str]) -> list[ClassThresholds]:
    """A row a class of class-wise thresholds [K, H, W]; none of [H, W]."""
    rows = []
    for name, values in zip(class_names, q_hat, strict=True) if q_hat.ndim == 3 else ():
        finite = values[np.isfinite(values)]
        numbers = [float(f(finite)) for f in (np.min, np.median, np.max)] if finite.size else [None] * 3
        rows.append(ClassThresholds(name, *numbers, 1 - finite.size / values.size))
    return rows


def keep_rate_histogram(keep_rates: npt.NDArray[np.floating]) -> Markup:
    counts = np.histogram(keep_rates, NUM_BINS, (0, 1))[0].tolist()
    title = "How many images keep which share of their pixels"
    return histogram(counts, (0.0, 1.0), "share of the image's pixels kept", "images", title, is_fraction=True)


class Outcome(NamedTuple):
    """What became of some pixels: name of its style, title, pixels, share of all pixels, and what it means."""

    kind: str
    title: str
    pixels: int
    share: float
    meaning: str


def outcomes(facts: Facts, has_background: bool, is_class_wise: bool) -> list[Outcome]:
    """Outcomes that add up to all pixels, from the receipt of pseudolabel.

    Pixels without a threshold may be kept (`uncalibrated: accept`), so what is left is at most as many as they are. A
    rule that can leave pixels whose set is not empty leaves the others of them.
    """
    pixels, rule = facts["pixels"], calib.find_rule(facts["rule"])
    rest = pixels["pixels"] - pixels["kept"] - pixels["empty"]
    no_threshold = min(rest, pixels["uncalibrated"])
    rows = {
        "kept": ("kept", pixels["kept"], "has a pseudo-label"),
        "empty": ("empty set", pixels["empty"], "no class is probable enough"),
        "uncalibrated": ("no threshold", no_threshold, "too few labeled images have a class here"),
    }
    if rule.can_leave_classes(is_class_wise):
        title, why = rule.unlabeled or ("not labeled", "the rule labels no class of the set")
        rows["ambiguous"] = (title, rest - no_threshold, why)
    if has_background:
        overruled, only = pixels["background_overruled"], pixels["background_only"]
        rows["part overruled"] = ("of the kept: overruled", overruled, "foreground, though background is more probable")
        rows["part background"] = ("of the kept: background only", only, "background is the only class in the set")
    total = max(pixels["pixels"], 1)
    return [Outcome(kind, title, count, count / total, why) for kind, (title, count, why) in rows.items()]


def outcome_bar(rows: Sequence[Outcome]) -> Markup:
    whole = [(row.kind, row.share) for row in rows if not row.kind.startswith("part")]
    words = ", ".join(f"{row.title} {100 * row.share:.1f} %" for row in rows)
    return stacked_bar(whole, f"What became of the pixels: {words}")


def trust_chart(held_out: HeldOut | None, audit: Facts | None, promised: Promise) -> Markup | None:
    """What is promised (coverage; under risk, wrong labels) beside precision, which nobody promises."""
    rows = _wrong_rows(held_out, audit) if promised.is_risk else _coverage_rows(held_out, audit)
    if held_out is not None:
        rows.append(("precision, held-out images", held_out.row["precision"]))
        rows.append(("annotator alone, held-out images", held_out.raw.precision))
        if held_out.used.same_keep is not None:
            rows.append(("annotator, as many pixels kept, held-out", held_out.used.same_keep))
    if audit is not None:
        rows.append(("precision, unlabeled images", {"value": audit["kept"]["precision"]}))
        rows.append(("annotator alone, unlabeled images", {"value": audit["raw"]["pixel_accuracy"]}))
    known = [Estimate(name, **share) for name, share in rows if share and share["value"] is not None]
    what = "Wrong labels" if promised.is_risk else "Coverage"
    title = f"{what} and precision beside the target"
    return estimates(known, promised.target, promised.target_name, title) if known else None


def _coverage_rows(held_out: HeldOut | None, audit: Facts | None) -> list[tuple[str, Facts | None]]:
    rows: list[tuple[str, Facts | None]] = []
    if held_out is not None:
        name = "coverage, held-out images" + _for_want_of_threshold(held_out.row["uncalibrated"])
        rows.append((name, held_out.row["coverage"]))
    if audit is not None:
        name = "coverage, unlabeled images" + _for_want_of_threshold(audit["coverage"]["uncalibrated_fraction"])
        rows.append((name, {"value": audit["coverage"]["coverage"]}))
    return rows


def _wrong_rows(held_out: HeldOut | None, audit: Facts | None) -> list[tuple[str, Facts | None]]:
    rows: list[tuple[str, Facts | None]] = []
    if held_out is not None:
        rows.append(("labeled wrong, held-out images", held_out.row["wrong"]))
    if audit is not None:
        wrong = wrong_fraction(audit["kept"]["precision"], audit["kept"]["keep_rate"])
        rows.append(("labeled wrong, unlabeled images", {"value": wrong}))
    return rows


def _for_want_of_threshold(uncalibrated: float | None) -> str:
    return f" ({100 * uncalibrated:.1f} % without threshold)" if uncalibrated else ""


def coverage_chart(held_out: HeldOut | None, promised: Promise) -> Markup | None:
    """Deciles over the held-out images of the share of their pixels that is covered."""
    deciles = held_out.row["coverage_per_image"] if held_out else []
    if not deciles:
        return None
    target = None if promised.is_risk else promised.target
    title = "Coverage of each held-out image, from the least to the best covered"
    return quantiles(deciles, target, "held-out images, least covered first", "coverage", title)


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

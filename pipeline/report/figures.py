"""The figures of the report: from receipts and arrays to charts and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.report.charts import Estimate, Series, estimates, histogram, line_chart, stacked_bar
from pipeline.report.palette import scale_colours
from pipeline.report.pictures import data_uri, value_map

NUM_BINS = 20
MAP_SIDE = 480  # pixels of the longer side of a map in the page
STAGE_NAMES = {"stage1": "Stage I", "stage2": "Stage II"}

Facts = Mapping[str, Any]


class ThresholdMap(NamedTuple):
    """The thresholds as a picture, with the ends of its colour scale, None if there is no finite threshold."""

    map_uri: str
    scale_uri: str
    low: float | None
    high: float | None


def threshold_map(q_hat: npt.NDArray[np.float32]) -> ThresholdMap:
    """Draw q-hat [H, W]; locations without a finite threshold are hatched."""
    step = max(1, math.ceil(max(q_hat.shape) / MAP_SIDE))
    finite = q_hat[np.isfinite(q_hat)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    picture = value_map(q_hat[::step, ::step], low or 0.0, 1.0 if high is None else high)
    scale = np.repeat(scale_colours()[None], 12, axis=0)
    return ThresholdMap(data_uri(picture, "png"), data_uri(scale, "png"), low, high)


def threshold_histogram(q_hat: npt.NDArray[np.float32]) -> Markup | None:
    finite = q_hat[np.isfinite(q_hat)]
    if not finite.size:
        return None
    counts = np.histogram(finite, NUM_BINS, (0, 1))[0].tolist()
    return histogram(counts, (0.0, 1.0), "threshold", "locations", "How many locations have which threshold")


def keep_rate_histogram(keep_rates: npt.NDArray[np.floating]) -> Markup:
    counts = np.histogram(keep_rates, NUM_BINS, (0, 1))[0].tolist()
    title = "How many images keep which share of their pixels"
    return histogram(counts, (0.0, 1.0), "share of the image's pixels kept", "images", title, shares=True)


class Outcome(NamedTuple):
    """What became of some pixels: name of its style, title, pixels, share of all pixels, and what it means."""

    kind: str
    title: str
    pixels: int
    share: float
    meaning: str


def outcomes(facts: Facts, has_background: bool) -> list[Outcome]:
    """Outcomes that add up to all pixels, from the receipt of pseudolabel.

    Pixels without a threshold may be kept (`uncalibrated: accept`). But the rule `singleton` keeps none of them, and
    the other rules keep every pixel whose set is not empty, so what the rest is made of is known in both cases.
    """
    pixels = facts["pixels"]
    rest = pixels["pixels"] - pixels["kept"] - pixels["empty"]
    no_threshold = pixels["uncalibrated"] if facts["rule"] == "singleton" else rest
    rows = {
        "kept": ("kept", pixels["kept"], "has a pseudo-label"),
        "empty": ("empty set", pixels["empty"], "no class is probable enough at this location"),
        "uncalibrated": ("no threshold", no_threshold, "too few labelled images have a class at this location"),
    }
    if facts["rule"] == "singleton":
        rows["ambiguous"] = ("ambiguous", rest - no_threshold, "several classes are probable enough")
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


def trust_chart(held_out: Facts | None, audit: Facts | None, alpha: float) -> Markup | None:
    """Coverage beside precision: two promises of which only the first is made."""
    rows = []
    if held_out is not None:
        name = "coverage, held-out images" + _for_want_of_threshold(held_out["uncalibrated"])
        rows.append(Estimate(name, held_out["coverage"], held_out["low"], held_out["high"]))
    if audit is not None:
        name = "coverage, unlabelled images" + _for_want_of_threshold(audit["coverage"]["uncalibrated_share"])
        rows.append(Estimate(name, audit["coverage"]["coverage"]))
        rows.append(Estimate("precision of the pseudo-labels", audit["kept"]["precision"]))
        rows.append(Estimate("accuracy without calibration", audit["raw"]["pixel_accuracy"]))
    rows = [row for row in rows if row.value is not None and math.isfinite(row.value)]
    return estimates(rows, 1 - alpha, "Coverage and precision beside the target coverage") if rows else None


def _for_want_of_threshold(uncalibrated: float | None) -> str:
    return f" ({100 * uncalibrated:.1f} % without threshold)" if uncalibrated else ""


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

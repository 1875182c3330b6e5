"""What calibration is worth on labelled images that took no part in it: judged image by image, told as facts."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.config import Settings
from pipeline.dask_tasks import run_tasks
from pipeline.progress import Progress
from pipeline.store import CalibrationStore, open_calibration, open_probabilities

log = logging.getLogger(__name__)

Fact = dict[str, Any]


class JudgeJob(NamedTuple):
    """One labelled image, its fold, and its maps, which class-wise thresholds need."""

    calibration: Path
    index: int
    fold: int
    probabilities: Path
    position: int
    rules: tuple[calib.Rule, ...]
    background: int | None
    accept_uncalibrated: bool


def judge(job: JudgeJob) -> tuple[int, calib.Judgement]:
    """Counts of one image, judged by the thresholds of the other folds; with its index, to put them in order."""
    store = open_calibration(job.calibration, writable=True)
    thresholds = store.held_out_thresholds(job.fold)
    maps = None
    if thresholds.is_class_wise:
        maps = open_probabilities(job.probabilities).probabilities(job.position).rows(slice(None))
    counts = calib.judge_image(
        store.planes(job.index),
        store.read_chunk("score", job.index),
        store.read_chunk("truth", job.index),
        (thresholds.map(a) for a in range(len(thresholds.q))),
        job.rules,
        len(store.class_names),
        job.background,
        "accept" if job.accept_uncalibrated else "abstain",
        maps,
    )
    return job.index, counts


def candidate_rules(is_class_wise: bool, variant: str) -> tuple[calib.Rule, ...]:
    """Rules that differ: with one threshold for all classes, no_background and argmax are one; risk is about argmax."""
    if variant == "risk":
        return ("argmax",)
    return tuple(rule for rule in calib.RULES if is_class_wise or rule != "no_background")


def judge_images(settings: Settings, store: CalibrationStore, jobs: Sequence[JudgeJob]) -> list[Fact]:
    """Judge every image; a row of facts for every alpha and rule."""
    progress = Progress(log, "calibrate: held-out images", len(jobs), "images")
    judged: dict[int, calib.Judgement] = {}

    def on_done(result: tuple[int, calib.Judgement]) -> None:
        judged[result[0]] = result[1]
        progress.advance()

    run_tasks(judge, jobs, settings.compute, on_done)
    # in the order of the images, so that the intervals do not depend on which came first
    held_out = calib.summarise([judged[i] for i in sorted(judged)], np.random.default_rng(settings.seed))
    return list(_rows(held_out, store, jobs[0].rules))


def _rows(held_out: calib.HeldOut, store: CalibrationStore, rules: Sequence[calib.Rule]) -> Iterator[Fact]:
    names = store.class_names
    for a, alpha in enumerate(store.alphas):
        if _is_of_other_thresholds(held_out.uncalibrated[a], store.q_hat(alpha)):
            log.warning(
                "calibrate: at alpha %g the folds have too few images to say what the final thresholds are worth; "
                "raise calibrate.folds or alpha",
                alpha,
            )
            held_out = held_out.without(a)
        per_image = held_out.coverage_per_image[:, a]
        known = per_image[~np.isnan(per_image)]
        coverage = {
            "target": 1 - alpha,
            "coverage": _estimate(held_out.coverage, a),
            "coverage_per_class": {n: _estimate(held_out.coverage_per_class, (a, k)) for k, n in enumerate(names)},
            "coverage_per_image": np.quantile(known, np.linspace(0, 1, 11)).tolist() if known.size else [],
            "image_coverage": _estimate(held_out.image_coverage, a),
            "uncalibrated": _number(held_out.uncalibrated[a]),
            "set_sizes": {name: _estimate(held_out.sizes, (a, size)) for size, name in enumerate(calib.SET_SIZES)},
        }
        for r, rule in enumerate(rules):
            precision = {n: _estimate(held_out.precision_per_class, (a, r, k)) for k, n in enumerate(names)}
            yield {
                "alpha": alpha,
                "rule": rule,
                **coverage,
                "precision": _estimate(held_out.precision, (a, r)),
                "precision_per_class": precision,
                "keep_rate": _estimate(held_out.keep_rate, (a, r)),
                "wrong": _estimate(held_out.wrong, (a, r)),
            }


def _is_of_other_thresholds(uncalibrated: float | np.floating, q_hat: npt.NDArray[np.float32]) -> bool:
    """Without the images held out, far more is uncalibrated than in the end, so counts say nothing of the latter."""
    return bool(uncalibrated > 0.5 and np.isposinf(q_hat).mean() < 0.5)


def _estimate(estimate: calib.Estimate, index: Any) -> Fact | None:
    """value, low and high; None where there is nothing to share."""
    if math.isnan(estimate.value[index]):
        return None
    return {name: float(values[index]) for name, values in estimate._asdict().items()}


def _number(value: float | npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


def find_row(rows: Sequence[Fact], alpha: float, rule: str) -> Fact | None:
    """The row of an alpha and rule, if held-out images were judged; rule no_background stands for argmax too."""
    same = {"no_background": ("no_background", "argmax")}.get(rule, (rule,))
    found = [row for name in same for row in rows if row["alpha"] == alpha and row["rule"] == name]
    return found[0] if found else None


def candidates(rows: Sequence[Mapping[str, Any]]) -> list[calib.Candidate]:
    """What rule auto may choose from."""
    return [
        calib.Candidate(row["alpha"], row["rule"], row["precision"]["value"], row["keep_rate"]["value"])
        for row in rows
        if row["precision"] is not None
    ]

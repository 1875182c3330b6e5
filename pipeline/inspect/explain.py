"""Every number behind the label of one pixel of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import IGNORE_INDEX, resize_nearest
from pipeline.errors import ConfigError
from pipeline.inspect import decision
from pipeline.inspect.decision import Pixel, class_or_none
from pipeline.inspect.evidence import Evidence
from pipeline.inspect.location import STEP, STEP_OF_LOCATION, alpha_list, fallback_thresholds, own_thresholds
from pipeline.run import Run
from pipeline.settings import Settings

Facts = dict[str, Any]
Floats = npt.NDArray[np.float32]

CALIBRATED_BY = ("variant", "class_thresholds", "quantile", "pooling", "n_min", "fallback", "uncalibrated")


def explain(evidence: Evidence, x: int, y: int) -> Facts:
    """Every number behind pixel (x, y) of the image, counted from its upper left corner.

    raises: ConfigError if the image has no such pixel
    """
    height, width = evidence.size
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigError(
            f"--xy {x},{y} is not in {evidence.sample_id}, which is {width} x {height}: give x from 0 to {width - 1} "
            f"and y from 0 to {height - 1}"
        )
    grid = evidence.calibration.grid
    where = {"id": evidence.sample_id, "x": x, "y": y, "width": width, "height": height, "grid": list(grid)}
    return where | explain_location(evidence, nearest(grid[0], height, y), nearest(grid[1], width, x))


def nearest(source: int, target: int, position: int) -> int:
    """Index in [0, source) of the row or column on the grid whose label a position in [0, target) of the image gets."""
    return int(resize_nearest(np.arange(source)[np.newaxis], (1, target))[0, position])


def explain_location(evidence: Evidence, row: int, column: int) -> Facts:
    """Every number behind one location of the grid.

    Sets and decisions are computed from the stored thresholds. `threshold_problem` and `label_problem` describe how the
    stores disagree; they are None if the stores agree.
    """
    calibration, chosen, names = evidence.calibration, evidence.settings.calibrate, evidence.calibration.class_names
    background = calibration.state["background"]
    uncalibrated: decision.Membership = "accept" if chosen.uncalibrated == "accept" else "abstain"
    pixel = Pixel(evidence.maps[:, row, column], evidence.rule, background, uncalibrated)
    scores = scores_at(evidence, row, column)
    stored = np.atleast_1d(calibration.q_hat(evidence.alpha, chosen.variant)[..., row, column])
    by_rule = {rule: _label(pixel._replace(rule=rule), stored) for rule in calib.RULES}
    return {
        "row": row,
        "column": column,
        "alpha": evidence.alpha,
        "rule": evidence.rule,
        "background": None if background is None else names[background],
        "calibrate": {name: getattr(chosen, name) for name in CALIBRATED_BY},
        "num_scores": len(scores),
        "rank": calib.conformal_rank(len(scores), evidence.alpha),
        "classes": class_rows(evidence, pixel, scores, stored, (row, column)),
        "set": [names[j] for j in decision.prediction_set(pixel, stored)],
        "decision": _name(by_rule[evidence.rule], names),
        "by_rule": {rule: _name(label, names) for rule, label in by_rule.items()},
        "raw_argmax": names[int(np.argmax(pixel.probabilities))],
        "check": check_command(evidence.settings),
        **alpha_facts(evidence, pixel, scores, stored, (row, column)),
        **stored_facts(evidence, pixel, stored, by_rule[evidence.rule], (row, column)),
    }


def has_problem(facts: Facts) -> bool:
    """Whether the stores disagree about this pixel."""
    return facts["threshold_problem"] is not None or facts["label_problem"] is not None


def scores_at(evidence: Evidence, row: int, column: int) -> Floats:
    """float32 [n] in [0, 1]: scores of the labeled images that have a true class at this location."""
    values = [evidence.calibration.read_chunk("score", image)[row, column] for image in evidence.images]
    scores = np.array(values, np.float32)
    return scores[~np.isnan(scores)]


def class_rows(
    evidence: Evidence, pixel: Pixel, scores: Floats, stored: Floats, location: tuple[int, int]
) -> list[Facts]:
    """Facts of each class, by descending probability; equal ones by ascending index.

    stored: float32 [1], or [K] class-wise; a threshold that is not finite is None
    """
    names, num_classes = evidence.calibration.class_names, len(pixel.probabilities)
    candidates = 1 - pixel.probabilities
    at_least = decision.num_at_least(scores, candidates)
    thresholds = np.broadcast_to(stored, num_classes)
    num_images = np.broadcast_to(
        evidence.calibration.images_behind(evidence.settings.calibrate.variant)[(..., *location)], num_classes
    )
    inside = decision.prediction_set(pixel, stored)
    return [
        {
            "class": names[j],
            "probability": float(pixel.probabilities[j]),
            "score": float(candidates[j]),
            "at_least": int(at_least[j]),
            "p_value": float(decision.p_value(int(at_least[j]), len(scores))),
            "threshold": float(thresholds[j]) if np.isfinite(thresholds[j]) else None,
            "is_uncalibrated": bool(np.isposinf(thresholds[j])),
            "num_images": int(num_images[j]),
            "in_set": j in inside,
        }
        for j in np.argsort(-pixel.probabilities, kind="stable").tolist()
    ]


def check_command(settings: Settings) -> str:
    """Command that checks every file of a run."""
    return Run(settings).tool("inspect", "--check")


def alpha_facts(evidence: Evidence, pixel: Pixel, scores: Floats, stored: Floats, location: tuple[int, int]) -> Facts:
    """The label at every alpha, and whether the stored threshold follows from the stored scores."""
    chosen, names = evidence.settings.calibrate, evidence.calibration.class_names
    alphas, thresholds, step = _thresholds_over_alphas(evidence, scores, location)
    if step is None:
        intervals = decision.exact_intervals(pixel, scores, chosen.uncalibrated)
    else:
        intervals = decision.listed_intervals(pixel, alphas, thresholds)
    computed = np.atleast_1d(thresholds[alphas.index(evidence.alpha)])
    differs = f"the stored threshold is {stored.tolist()}, but the stored scores give {computed.tolist()}"
    at_settings = decision.interval_of(intervals, chosen.alpha)
    return {
        "step": step,
        "intervals": [
            {"low": float(i.low), "high": float(i.high), "low_exact": str(i.low), "label": _name(i.label, names)}
            for i in intervals
        ],
        "settings_alpha": chosen.alpha,
        "at_settings_alpha": None if at_settings is None else _name(at_settings.label, names),
        "threshold_problem": None if np.array_equal(computed, stored, equal_nan=True) else differs,
    }


def _thresholds_over_alphas(
    evidence: Evidence, scores: Floats, location: tuple[int, int]
) -> tuple[list[float], Floats, float | None]:
    """Alphas, float32 thresholds [T] or [T, K], and the step between the alphas; None if intervals are exact."""
    settings, chosen = evidence.settings, evidence.settings.calibrate
    if evidence.fitted is not None:
        return evidence.fitted.alphas, evidence.fitted.at(*location), STEP
    if len(scores) < chosen.n_min:
        alphas = alpha_list(STEP, evidence.alpha, chosen.alpha)
        thresholds = fallback_thresholds(settings, evidence.calibration, evidence.images, location, alphas)
        return alphas, thresholds, STEP
    if chosen.quantile == "exact":
        return [evidence.alpha], own_thresholds(scores, [evidence.alpha], settings), None
    alphas = alpha_list(STEP_OF_LOCATION, evidence.alpha, chosen.alpha)
    return alphas, own_thresholds(scores, alphas, settings), STEP_OF_LOCATION


def stored_facts(
    evidence: Evidence, pixel: Pixel, thresholds: Floats, label: int | None, location: tuple[int, int]
) -> Facts:
    """What the stores contain for this pixel: its label or, in a labeled image, its true class and score."""
    names = evidence.calibration.class_names
    if evidence.calibration_index is None:
        inside = decision.prediction_set(pixel, thresholds)
        label_facts = _label_facts(evidence, inside, label, location)
        return {"is_labeled": False, "truth": None, "stored_score": None, **label_facts}
    truth = int(evidence.calibration.read_chunk("truth", evidence.calibration_index)[location])
    score = evidence.calibration.read_chunk("score", evidence.calibration_index)[location]
    is_void = truth == IGNORE_INDEX
    expected = np.float32(np.nan) if is_void else 1 - pixel.probabilities[truth]
    differs = f"the stored score {score} is not 1 - P of the true class: {expected}"
    return {
        "is_labeled": True,
        "truth": "void" if is_void else names[truth],
        "stored_score": None if np.isnan(score) else float(score),
        "stored": None,
        "label_problem": None if np.array_equal(score, expected, equal_nan=True) else differs,
    }


def _label_facts(evidence: Evidence, inside: list[int], label: int | None, location: tuple[int, int]) -> Facts:
    """inside: classes of the prediction set that maps and thresholds give."""
    names, index = evidence.calibration.class_names, evidence.label_index
    if evidence.labels is None or index is None:
        return {"stored": None, "label_problem": None}
    stored = class_or_none(evidence.labels.label(index)[location])
    actual, expected = (_name(k, names) or "none" for k in (stored, label))
    problem = None
    if stored != label:
        problem = f"the stored label is {actual}, but maps, threshold and rule give {expected}"
    elif evidence.labels.has_sets:
        bits = evidence.labels.sets(index)[:, *location]
        kept = np.flatnonzero(calib.unpack_sets(bits[:, np.newaxis, np.newaxis], len(names))).tolist()
        if kept != inside:
            actual, expected = (", ".join(names[j] for j in classes) or "none" for classes in (kept, inside))
            problem = f"the stored set is {{{actual}}}, but maps and thresholds give {{{expected}}}"
    return {"stored": {"label": _name(stored, names)}, "label_problem": problem}


def _label(pixel: Pixel, stored: Floats) -> int | None:
    """stored: float32 [1], or [K] class-wise."""
    thresholds = stored if len(stored) == 1 else stored[np.newaxis]
    return class_or_none(decision.labels_at(pixel, thresholds)[0])


def _name(label: int | None, names: list[str]) -> str | None:
    return None if label is None else names[label]

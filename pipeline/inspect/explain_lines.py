"""The facts of one pixel as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import calib
from pipeline.calibration.guarantee import FALLBACKS, FOR_CLASS

Facts = Mapping[str, Any]
Line = tuple[str, str]

UNCALIBRATED = {
    "abstain": "no class is in the set (calibrate.uncalibrated: abstain)",
    "accept": "every class is in the set (calibrate.uncalibrated: accept)",
    "max": "the largest score is the threshold (calibrate.uncalibrated: max)",
    "raise": "calibrate refuses (calibrate.uncalibrated: raise)",
}
NO_LABEL = "no label"


def format_explanation(facts: Facts) -> str:
    """The facts of `explain` as lines, each with its topic."""
    grid = " x ".join(str(side) for side in reversed(facts["grid"]))
    location = f"row {facts['row']}, column {facts['column']} of the {grid} grid"
    lines = [
        ("pixel", f"{facts['id']} ({facts['width']} x {facts['height']}), x {facts['x']}, y {facts['y']}: {location}"),
        *(("class", cells) for cells in _class_table(facts)),
        *_pooled_note(facts),
        ("threshold", _threshold(facts)),
        ("set", "{" + ", ".join(facts["set"]) + "}: classes with a score of at most the threshold"),
        ("rule", _rule(facts)),
        ("decision", facts["decision"] or NO_LABEL),
        ("raw argmax", facts["raw_argmax"]),
        *_truth(facts),
        ("other rules", ", ".join(f"{rule}: {label or NO_LABEL}" for rule, label in facts["by_rule"].items())),
        *_alphas(facts),
        *_agreement(facts),
    ]
    return "\n".join(f"{word:<13}{text}" for word, text in lines)


def _class_table(facts: Facts) -> Iterator[str]:
    width = max(len("class"), *(len(row["class"]) for row in facts["classes"]))
    is_class_wise = facts["calibrate"]["class_thresholds"] != "pooled"
    own = f"  {'threshold':>12}" if is_class_wise else ""
    larger = f">= of {facts['num_scores']}"
    yield f"{'class':<{width}}  {'P':>9}  {'1 - P':>9}  {larger:>9}  p-value{own}  in the set"
    for row in facts["classes"]:
        own = f"  {_q_hat(row):>12}" if is_class_wise else ""
        numbers = f"{row['probability']:9.6f}  {row['score']:9.6f}  {row['at_least']:>9}  {row['p_value']:7.4f}"
        yield f"{row['class']:<{width}}  {numbers}{own}  {'yes' if row['in_set'] else 'no'}"


def _is_own(facts: Facts) -> bool:
    """Whether the threshold was computed from the scores at this location alone."""
    chosen = facts["calibrate"]
    return bool(calib.find_variant(chosen["variant"]).by_location and facts["num_scores"] >= chosen["n_min"])


def _pooled_note(facts: Facts) -> Iterator[Line]:
    if not _is_own(facts):
        yield (
            "",
            "ranks and p-values are among the scores at this location; the threshold was computed from many pixels",
        )


def _q_hat(row: Facts) -> str:
    if row["threshold"] is None:
        return "uncalibrated" if row["is_uncalibrated"] else "none"
    return f"{row['threshold']:.6f}"


def _threshold(facts: Facts) -> str:
    """The threshold, and how it was computed."""
    chosen, first = facts["calibrate"], facts["classes"][0]
    if chosen["class_thresholds"] != "pooled":
        return f"of each class, at alpha {facts['alpha']:g}; {_how_pooled(facts)}"
    value = _q_hat(first) if first["threshold"] is not None else f"none ({UNCALIBRATED[chosen['uncalibrated']]})"
    return f"{value} at alpha {facts['alpha']:g}; {_how_ranked(facts) if _is_own(facts) else _how_pooled(facts)}"


def _how_ranked(facts: Facts) -> str:
    n, k, chosen = facts["num_scores"], facts["rank"], facts["calibrate"]
    if n == 0:
        return "no labeled image has a class at this location"
    if chosen["quantile"] == "paper":
        return f"the (1 - alpha)-quantile of {n} scores at this location, interpolated, not corrected for few scores"
    rank = f"rank k = ceil(({n} + 1)(1 - {facts['alpha']:g})) = {k}"
    if k <= n:
        return f"{rank}: in ascending order, score {k} of the {n} at this location"
    return f"{rank} is more than the {n} scores at this location: {UNCALIBRATED[chosen['uncalibrated']]}"


def _how_pooled(facts: Facts) -> str:
    chosen, images = facts["calibrate"], sorted({row["num_images"] for row in facts["classes"]})
    kind = calib.find_variant(chosen["variant"])
    behind = f"{images[0]} to {images[-1]}" if len(images) > 1 else str(images[0])
    if kind.by_location:
        few = f"{facts['num_scores']} scores at this location are fewer than calibrate.n_min {chosen['n_min']}"
        return f"{few}, so it is the threshold of its {FALLBACKS[chosen['fallback']]}, from {behind} labeled images"
    if kind.bounds == "wrong labels":
        bound = "the largest with which at most alpha of a new image's pixels are labeled wrong, on average"
        return f"{kind.shared_by}, {bound}, from {behind} labeled images"
    if kind.bounds == "precision":
        bound = "the largest for which the images show that at most alpha of the labels of new images are wrong"
        return f"{kind.shared_by}, {bound}, from {behind} labeled images"
    if kind.bounds == "nothing":
        return "one fixed number for the whole image, calibrate.fixed_threshold; nothing is calibrated"
    shared = kind.shared_by + FOR_CLASS[chosen["class_thresholds"]]
    pooling = f"{chosen['pooling']} pooling, " if kind.of_classes else ""
    return f"{shared}, from {behind} labeled images ({pooling}quantile {chosen['quantile']})"


def _rule(facts: Facts) -> str:
    rule = calib.find_rule(facts["rule"])
    words = rule.words if facts["background"] is not None else rule.words_without_background or rule.words
    return f"{rule.name}: {words}"


def _truth(facts: Facts) -> Iterator[Line]:
    if facts["is_labeled"]:
        score = "" if facts["stored_score"] is None else f", score {facts['stored_score']:.6f}, one of those above"
        yield "truth", f"{facts['truth']}{score}: this image is labeled, so its own score was used for the threshold"


def _alphas(facts: Facts) -> Iterator[Line]:
    """Every interval of alpha with its decision."""
    if facts["step"] is None:
        n = facts["num_scores"]
        yield "alpha", f"the decision at every alpha; exact. Below 1/{n + 1} = {1 / (n + 1):.4g} scores are too few"
    else:
        yield "alpha", f"the decision at listed alphas; it changes within the step of {facts['step']:g} after each line"
    for interval in facts["intervals"]:
        low, high = f"{interval['low']:.4g}", f"{interval['high']:.4g}"
        if facts["step"] is not None:
            yield "", f"{low} to {high}: {interval['label'] or NO_LABEL}"
        elif interval["low"] == 0:
            yield "", f"below {high}: {interval['label'] or NO_LABEL}"
        else:
            yield "", f"from {interval['low_exact']} = {low} to below {high}: {interval['label'] or NO_LABEL}"
    if facts["settings_alpha"] != facts["alpha"]:
        yield "", f"at the settings' {facts['settings_alpha']:g}: {facts['at_settings_alpha'] or NO_LABEL}"


def _agreement(facts: Facts) -> Iterator[Line]:
    """What the stores contain, and where they disagree."""
    if facts["stored"] is not None and facts["label_problem"] is None:
        yield "stored label", f"{facts['stored']['label'] or NO_LABEL}: the same"
    elif facts["stored"] is None and not facts["is_labeled"]:
        yield "stored label", "none yet: labels.zarr does not have this image"
    for problem in (facts["threshold_problem"], facts["label_problem"]):
        if problem is not None:
            yield "DISAGREES", f"{problem}; check the stores: {facts['check']}"

"""Chooses the variant, alpha and rule to label with, from estimates of every combination on held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import calib
from pipeline.calibration.rows import Measure, candidates
from pipeline.calibration.sweep import sweep_run
from pipeline.calibration.verdict import verdict
from pipeline.datasets import in_groups
from pipeline.drawing.charts import scatter, standalone
from pipeline.errors import ConfigError
from pipeline.files import write_text
from pipeline.run import Run
from pipeline.settings import Settings

Facts = dict[str, Any]

BAND = 0.05  # width of a band of keep rates; the table shows the most precise point of the front in each band
BAR_LENGTH = 40  # characters, at keep rate 1


class Goal(NamedTuple):
    """The goal of the choice.

    measure: "miou": largest mIoU, as rule auto chooses, with the target precision of the run if it has one;
             "precision": largest keep rate with at least the target precision; "keep_rate": highest precision with at
             least the target keep rate
    target:  precision or keep rate, a fraction in [0, 1]; None for "miou"
    end:     number that must reach a target precision: the estimate ("value") or the lower end of its interval ("low")
    """

    measure: Literal["miou", "precision", "keep_rate"] = "miou"
    target: float | None = None
    end: Literal["value", "low"] = "value"

    def __str__(self) -> str:
        if self.measure == "miou":
            return "the largest held-out mIoU of labels; a pixel without a label counts as missed"
        if self.measure == "keep_rate":
            return f"the highest held-out precision with a keep rate of at least {self.target:g}"
        which = "the lower end of held-out precision" if self.end == "low" else "held-out precision"
        return f"the largest keep rate with {which} at least {self.target:g}"


def choose_alpha(settings: Settings, goal: Goal, rule: str | None = None) -> Facts:
    """Sweep the alphas of a calibrated run in all of its variants, and choose one combination by the goal.

    rule:    choose among the alphas of this rule only; default: all rules
    returns: `rows` (one per variant, alpha and rule), `front` (the Pareto front, from most labels to most precise),
             `chosen` (one of the rows), `current` (the row of the settings, or None), `is_reached` (does the choice
             reach the target), its `verdict`, and the `command` that makes these labels
    raises:  StoreError if the run is not calibrated; ConfigError if the rule is unknown or nothing can be chosen
    """
    if rule is not None:
        _refuse_unknown_rule(rule)
    variants = [variant for variant in settings.variants if variant not in settings.guaranteed_variants]
    sweeps = [sweep_run(settings, variant).held_out for variant in variants]
    judged = [facts for facts in sweeps if facts is not None]
    if not judged:
        raise ConfigError(
            f"{settings.name} has no held-out precision to choose by, because it has a single labeled image or group "
            "of images; label at least one more"
        )
    held_out = judged[0] | {"rows": [row for facts in judged for row in facts["rows"]]}
    rows = [row for row in (held_out["raw"], *held_out["rows"]) if rule is None or row["rule"] == rule]
    if not rows:
        judged_rules = ", ".join(dict.fromkeys(row["rule"] for row in (*held_out["rows"], held_out["raw"])))
        raise ConfigError(
            f"{settings.name} has no held-out precision of rule {rule} to choose by; set --rule to one of "
            f"{judged_rules}"
        )
    try:
        best, is_reached = _pick(settings, goal, held_out, rule)
    except ValueError as error:
        raise ConfigError(f"{settings.name}: {error}; label more images") from None
    row_of = {(row["variant"], row["alpha"], row["rule"]): row for row in rows}
    front = calib.pareto_front([c for c in candidates(held_out) if rule in (None, c.rule)])
    current = settings.calibrate.variant, settings.calibrate.alpha, settings.pseudolabel.rule
    variant = {} if best.variant == settings.calibrate.variant else {"variant": best.variant}
    return {
        "run": settings.name,
        "num_images": held_out["num_images"],
        "num_groups": held_out.get("num_groups"),
        "folds": held_out["folds"],
        "goal": str(goal),
        "is_reached": is_reached,
        "chosen": row_of[best[:3]],
        "current": row_of.get(current),
        "front": [row_of[point[:3]] for point in front],
        "rows": rows,
        "verdict": verdict(held_out, *best[:3]),
        "command": Run(settings).command("all", **variant, alpha=best.alpha, rule=best.rule),
    }


def _refuse_unknown_rule(rule: str) -> None:
    try:
        calib.find_rule(rule)
    except calib.UnknownNameError as error:
        raise ConfigError(f"--rule: {error}") from None


def _pick(settings: Settings, goal: Goal, held_out: Facts, rule: str | None) -> tuple[calib.Candidate, bool]:
    """The best candidate for the goal, and whether it reaches the target; ValueError if there is no candidate."""
    pseudolabel = settings.pseudolabel
    precision_of: Measure = pseudolabel.precision_of if goal.measure == "miou" else "pixels"
    allowed = [c for c in candidates(held_out, precision_of, goal.end) if rule in (None, c.rule)]
    if goal.measure == "miou":
        ranked, is_reached = calib.rank(allowed, pseudolabel.target_precision)
        return ranked[0], is_reached
    assert goal.target is not None
    pick = calib.choose_most_labels if goal.measure == "precision" else calib.choose_most_precise
    return pick(allowed, goal.target)


def format_choice(facts: Mapping[str, Any], everything: bool = False) -> str:
    """Text with the front as a table with bars, the choice, and the command.

    facts:      as returned by `choose_alpha`
    everything: show the whole front; default: one row per band of keep rates
    """
    alphas = len({row["alpha"] for row in facts["rows"]})
    images = in_groups(facts["num_images"], facts["num_groups"])
    front = facts["front"] if everything else _thinned(facts["front"])
    if not any(row is facts["chosen"] for row in front):
        front = sorted([*front, facts["chosen"]], key=lambda row: -row["keep_rate"]["value"])
    return "\n".join(
        [
            f"{facts['run']}: {alphas} alphas, {len(facts['rows'])} combinations with rules; {images} in "
            f"{facts['folds']} folds, each judged by thresholds from the other folds",
            "Pareto front: no other combination has more labels and a higher precision (95 % intervals over "
            f"{'images' if facts['num_groups'] is None else 'groups'})",
            "",
            f"   variant    alpha  rule           {'held-out precision':<22} {'mIoU of labels':<22} keep rate",
            *(_line(row, row is facts["chosen"]) for row in front),
            "",
            *_summary(facts),
        ]
    )


def _thinned(front: Sequence[Facts]) -> list[Facts]:
    """The most precise point of every band of keep rates."""
    return list({int(row["keep_rate"]["value"] / BAND): row for row in front}.values())


def _line(row: Facts, is_chosen: bool) -> str:
    keep_rate = row["keep_rate"]["value"]
    precision, miou = ("{value:.3f} [{low:.3f}, {high:.3f}]".format(**row[name]) for name in ("precision", "miou"))
    mark, bar = "->" if is_chosen else "  ", "█" * round(BAR_LENGTH * keep_rate)
    combination = f"{row['variant']:<8} {row['alpha']:>7g}  {row['rule']:<14}"
    if row["rule"] == "raw":
        combination = f"{'-':<8} {'-':>7}  {row['rule']:<14}"
    return f"{mark} {combination} {precision:<22} {miou:<22} {keep_rate:.3f} {bar}"


def _summary(facts: Facts | Mapping[str, Any]) -> Iterator[str]:
    """Lines with the goal, the choice, the current settings, the verdict and the command."""
    chosen, current = facts["chosen"], facts["current"]
    yield f"goal        {facts['goal']}"
    if not facts["is_reached"]:
        yield "            no combination reaches it; the nearest one is chosen"
    yield f"chosen      {_combination(chosen)}: {_estimates(chosen)}"
    if current is not None and current is not chosen:
        yield f"current     {_combination(current)}: {_estimates(current)}"
    if facts["verdict"] is not None:
        yield f"verdict     {facts['verdict']}"
    yield "caution     the best of many estimates is slightly optimistic, and held-out precision is not a guarantee"
    yield f"command     {facts['command']}"


def _combination(row: Facts) -> str:
    return (
        "rule raw" if row["rule"] == "raw" else f"variant {row['variant']}, alpha {row['alpha']:g}, rule {row['rule']}"
    )


def _estimates(row: Facts) -> str:
    precision, miou = (f"{row[name]['value']:.3f}" if row[name] else "-" for name in ("precision", "miou"))
    return f"held-out precision {precision}, mIoU of labels {miou}, keep rate {row['keep_rate']['value']:.3f}"


def write_plot(facts: Mapping[str, Any], path: Path) -> None:
    """Write a plot of the front, all other combinations and the choice to an SVG file."""
    front = [_point(row) for row in facts["front"]]
    others = [_point(row) for row in facts["rows"] if row["precision"] is not None and row not in facts["front"]]
    title = f"Held-out precision against keep rate, {facts['run']}"
    chart = scatter(front, others, _point(facts["chosen"]), "keep rate", "held-out precision", title)
    write_text(path, standalone(chart))


def _point(row: Facts) -> tuple[float, float]:
    return row["keep_rate"]["value"], row["precision"]["value"]

"""Which variant, alpha and rule to label with: what held-out images say of every choice, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import calib
from pipeline.calibration.cross_fitting import Measure, candidates
from pipeline.calibration.sweep import sweep_run
from pipeline.calibration.verdict import verdict
from pipeline.drawing.charts import scatter, standalone
from pipeline.errors import ConfigError
from pipeline.files import write_text
from pipeline.run import Run
from pipeline.settings import Settings

Facts = dict[str, Any]

BAND = 0.05  # of the keep rate: the front is told by its most precise point in each
BAR = 40


class Goal(NamedTuple):
    """What a user asks for.

    measure: "miou": the largest mIoU, as rule auto does, with its target if the run has one; "precision": most labels
             of at least this precision; "keep_rate": the most precise of at least so many
    target:  share, 0 to 1
    end:     is it the estimate ("value") that has to reach a precision, or the lower end of its interval ("low")?
    """

    measure: Literal["miou", "precision", "keep_rate"] = "miou"
    target: float | None = None
    end: Literal["value", "low"] = "value"

    def __str__(self) -> str:
        if self.measure == "miou":
            return "the largest held-out mIoU of labels, a pixel without a label counting as missed"
        if self.measure == "keep_rate":
            return f"the highest held-out precision with a keep rate of at least {self.target:g}"
        which = "the lower end of held-out precision" if self.end == "low" else "held-out precision"
        return f"the largest keep rate with {which} at least {self.target:g}"


def choose_alpha(settings: Settings, goal: Goal, rule: str | None = None) -> Facts:
    """Sweep a calibrated run, in all of its variants, and choose by the goal; with a rule, among its alphas alone.

    returns: `rows` of every variant, alpha and rule, `front` (those that no other beats, from most labels to most
             precise), `chosen` (one of them), `is_reached`, the `verdict` on it, and the `command` that labels so
    raises:  StoreError if the run is not calibrated; ConfigError if nothing can be chosen
    """
    if rule is not None:
        _refuse_unknown_rule(rule)
    swept = [sweep_run(settings, variant).held_out for variant in settings.variants]
    judged = [facts for facts in swept if facts is not None]
    if not judged:
        raise ConfigError(
            f"{settings.name} has no held-out precision to choose by (a single labeled image: label more)"
        )
    everything = judged[0] | {"rows": [row for facts in judged for row in facts["rows"]]}
    rows = [row for row in (everything["raw"], *everything["rows"]) if rule is None or row["rule"] == rule]
    if not rows:
        known = ", ".join(dict.fromkeys(row["rule"] for row in (*everything["rows"], everything["raw"])))
        raise ConfigError(
            f"{settings.name} has no held-out precision to choose by (no row of rule {rule}: choose among {known})"
        )
    try:
        best, is_reached = _pick(settings, goal, everything, rule)
    except ValueError as error:
        raise ConfigError(f"{settings.name}: {error}; label more images") from None
    at = {(row["variant"], row["alpha"], row["rule"]): row for row in rows}
    front = calib.pareto_front([c for c in candidates(everything) if rule in (None, c.rule)])
    now = settings.calibrate.variant, settings.calibrate.alpha, settings.pseudolabel.rule
    variant = {} if best.variant == settings.calibrate.variant else {"variant": best.variant}
    return {
        "run": settings.name,
        "num_images": everything["num_images"],
        "folds": everything["folds"],
        "goal": str(goal),
        "is_reached": is_reached,
        "chosen": at[best[:3]],
        "now": at.get(now),
        "front": [at[point[:3]] for point in front],
        "rows": rows,
        "verdict": verdict(everything, *best[:3]),
        "command": Run(settings).command("all", **variant, alpha=best.alpha, rule=best.rule),
    }


def _refuse_unknown_rule(rule: str) -> None:
    try:
        calib.find_rule(rule)
    except calib.UnknownNameError as error:
        raise ConfigError(f"--rule: {error}") from None


def _pick(settings: Settings, goal: Goal, held_out: Facts, rule: str | None) -> tuple[calib.Candidate, bool]:
    chosen = settings.pseudolabel
    precision_of: Measure = chosen.precision_of if goal.measure == "miou" else "pixels"
    found = [c for c in candidates(held_out, precision_of, goal.end) if rule in (None, c.rule)]
    if goal.measure == "miou":
        ranked, is_reached = calib.rank(found, chosen.target_precision)
        return ranked[0], is_reached
    assert goal.target is not None
    pick = calib.choose_most_labels if goal.measure == "precision" else calib.choose_most_precise
    return pick(found, goal.target)


def format_choice(facts: Mapping[str, Any], everything: bool = False) -> str:
    """The front as a table with bars, the choice, and the command; not everything: one row a band of keep rates."""
    alphas = len({row["alpha"] for row in facts["rows"]})
    front = facts["front"] if everything else _thinned(facts["front"])
    if not any(row is facts["chosen"] for row in front):
        front = sorted([*front, facts["chosen"]], key=lambda row: -row["keep_rate"]["value"])
    return "\n".join(
        [
            f"{facts['run']}: {alphas} alphas, {len(facts['rows'])} combinations with rules; {facts['num_images']} "
            f"labeled images in {facts['folds']} folds, each judged by the others",
            "Pareto front: nothing keeps more labels that are as often right (95 % intervals over images)",
            "",
            f"   variant    alpha  rule           {'held-out precision':<22} {'mIoU of labels':<22} keep rate",
            *(_line(row, row is facts["chosen"]) for row in front),
            "",
            *_verdict(facts),
        ]
    )


def _thinned(front: Sequence[Facts]) -> list[Facts]:
    """The most precise point of every band of keep rates."""
    return list({int(row["keep_rate"]["value"] / BAND): row for row in front}.values())


def _line(row: Facts, is_chosen: bool) -> str:
    keep_rate = row["keep_rate"]["value"]
    precision, miou = ("{value:.3f} [{low:.3f}, {high:.3f}]".format(**row[name]) for name in ("precision", "miou"))
    mark, bar = "->" if is_chosen else "  ", "█" * round(BAR * keep_rate)
    made = f"{row['variant']:<8} {row['alpha']:>7g}  {row['rule']:<14}"
    if row["rule"] == "raw":
        made = f"{'-':<8} {'-':>7}  {row['rule']:<14}"
    return f"{mark} {made} {precision:<22} {miou:<22} {keep_rate:.3f} {bar}"


def _verdict(facts: Facts | Mapping[str, Any]) -> Iterator[str]:
    chosen, now = facts["chosen"], facts["now"]
    yield f"asked for   {facts['goal']}"
    if not facts["is_reached"]:
        yield "            nothing reaches that; the nearest one is chosen"
    yield f"chosen      {_named(chosen)}: {_told(chosen)}"
    if now is not None and now is not chosen:
        yield f"now         {_named(now)}: {_told(now)}"
    if facts["verdict"] is not None:
        yield f"verdict     {facts['verdict']}"
    yield "            the best of many looks a little better than it is; held-out precision is no bound"
    yield f"label so    {facts['command']}"


def _named(row: Facts) -> str:
    return (
        "rule raw" if row["rule"] == "raw" else f"variant {row['variant']}, alpha {row['alpha']:g}, rule {row['rule']}"
    )


def _told(row: Facts) -> str:
    precision, miou = (f"{row[name]['value']:.3f}" if row[name] else "-" for name in ("precision", "miou"))
    return f"held-out precision {precision}, mIoU of labels {miou}, keep rate {row['keep_rate']['value']:.3f}"


def write_plot(facts: Mapping[str, Any], path: Path) -> None:
    """Write the front, all other combinations and the choice as an SVG of its own."""
    front = [_point(row) for row in facts["front"]]
    others = [_point(row) for row in facts["rows"] if row["precision"] is not None and row not in facts["front"]]
    title = f"Held-out precision against keep rate, {facts['run']}"
    chart = scatter(front, others, _point(facts["chosen"]), "share of pixels kept", "held-out precision", title)
    write_text(path, standalone(chart))


def _point(row: Facts) -> tuple[float, float]:
    return row["keep_rate"]["value"], row["precision"]["value"]

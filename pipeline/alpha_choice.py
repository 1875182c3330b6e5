"""Which alpha and rule to label with: what every choice keeps and how right it is on held-out images, and the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import calib
from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.held_out import candidates, find_row
from pipeline.report.charts import scatter
from pipeline.sweep import sweep_run

Facts = dict[str, Any]

BAND = 0.05  # of the keep rate: the front is told by its most precise point in each
BAR = 40


class Goal(NamedTuple):
    """What a user asks for.

    measure: "precision": most labels of at least this precision; "keep_rate": the most precise of at least so many
    target:  share, 0 to 1
    end:     is it the estimate ("value") that has to reach a precision, or the lower end of its interval ("low")?
    """

    measure: Literal["precision", "keep_rate"]
    target: float
    end: Literal["value", "low"] = "value"

    def __str__(self) -> str:
        if self.measure == "keep_rate":
            return f"the highest held-out precision with a keep rate of at least {self.target:g}"
        which = "the lower end of held-out precision" if self.end == "low" else "held-out precision"
        return f"the largest keep rate with {which} at least {self.target:g}"


def choose_alpha(settings: Settings, goal: Goal, rule: str | None = None) -> Facts:
    """Sweep a calibrated run and choose by the goal; with a rule, among its alphas alone.

    returns: `rows` of every alpha and rule, `front` (those that no other beats, from most labels to most precise),
             `chosen` (one of them), `is_reached`, and the `command` that makes labels with the choice
    raises:  StoreError if the run is not calibrated; ConfigError if nothing can be chosen
    """
    swept = sweep_run(settings)
    rows = [row for row in swept.rows if rule is None or row["rule"] == rule]
    if not rows:
        known = ", ".join(dict.fromkeys(row["rule"] for row in swept.rows))
        reason = f"no row of rule {rule}: choose among {known}" if known else "a single labelled image: label more"
        raise ConfigError(f"{settings.name} has no held-out precision to choose by ({reason})")
    found = candidates(rows, goal.end)
    pick = calib.choose if goal.measure == "precision" else calib.choose_most_precise
    try:
        best, is_reached = pick(found, goal.target)
    except ValueError as error:
        raise ConfigError(f"{settings.name}: {error}; label more images") from None
    return {
        "run": settings.name,
        "num_images": swept.num_images,
        "folds": swept.folds,
        "goal": str(goal),
        "is_reached": is_reached,
        "chosen": find_row(rows, best.alpha, best.rule),
        "now": find_row(rows, settings.calibrate.alpha, settings.pseudolabel.rule),
        "front": [find_row(rows, point.alpha, point.rule) for point in calib.pareto_front(candidates(rows))],
        "rows": rows,
        "command": f"snakemake --cores 8 all --config run={settings.name} alpha={best.alpha:g} rule={best.rule}",
    }


def format_choice(facts: Mapping[str, Any], everything: bool = False) -> str:
    """The front as a table with bars, the choice, and the command; not everything: one row a band of keep rates."""
    alphas = len({row["alpha"] for row in facts["rows"]})
    front = facts["front"] if everything else _thinned(facts["front"])
    if not any(row is facts["chosen"] for row in front):
        front = sorted([*front, facts["chosen"]], key=lambda row: -row["keep_rate"]["value"])
    return "\n".join(
        [
            f"{facts['run']}: {alphas} alphas, {len(facts['rows'])} combinations with rules; {facts['num_images']} "
            f"labelled images in {facts['folds']} folds, each judged by the others",
            "Pareto front: nothing keeps more labels that are as often right (95 % intervals over images)",
            "",
            f"     alpha  rule           {'held-out precision':<22} keep rate",
            *(_line(row, row is facts["chosen"]) for row in front),
            "",
            *_verdict(facts),
        ]
    )


def _thinned(front: Sequence[Facts]) -> list[Facts]:
    """The most precise point of every band of keep rates."""
    return list({int(row["keep_rate"]["value"] / BAND): row for row in front}.values())


def _line(row: Facts, is_chosen: bool) -> str:
    precision, keep_rate = row["precision"], row["keep_rate"]["value"]
    told = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**precision)
    mark = "->" if is_chosen else "  "
    return f"{mark} {row['alpha']:>7g}  {row['rule']:<14} {told:<22} {keep_rate:.3f} {'█' * round(BAR * keep_rate)}"


def _verdict(facts: Facts | Mapping[str, Any]) -> Iterator[str]:
    chosen, now = facts["chosen"], facts["now"]
    yield f"asked for   {facts['goal']}"
    if not facts["is_reached"]:
        yield "            no alpha reaches that; the nearest one is chosen"
    yield f"chosen      alpha {chosen['alpha']:g}, rule {chosen['rule']}: {_told(chosen)}"
    if now is not None and now is not chosen:
        yield f"now         alpha {now['alpha']:g}, rule {now['rule']}: {_told(now)}"
    yield "            the best of many looks a little better than it is; held-out precision is no bound"
    yield f"label so    {facts['command']}"


def _told(row: Facts) -> str:
    precision = f"{row['precision']['value']:.3f}" if row["precision"] else "-"
    return f"held-out precision {precision}, keep rate {row['keep_rate']['value']:.3f}"


def write_plot(facts: Mapping[str, Any], path: Path) -> None:
    """Write the front, all other combinations and the choice as an SVG of its own."""
    front = [_point(row) for row in facts["front"]]
    others = [_point(row) for row in facts["rows"] if row["precision"] is not None and row not in facts["front"]]
    title = f"Held-out precision against keep rate, {facts['run']}"
    chart = scatter(front, others, _point(facts["chosen"]), "share of pixels kept", "held-out precision", title)
    style = (Path(__file__).parent / "report" / "style.css").read_text(encoding="utf-8")
    head, rest = str(chart).split(">", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n', encoding="utf-8")


def _point(row: Facts) -> tuple[float, float]:
    return row["keep_rate"]["value"], row["precision"]["value"]

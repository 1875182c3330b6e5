"""The output of the command: a table of the arms, the chosen one, and the command that trains on its labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.datasets import in_groups
from train.probe.arms import Arm, Labels

Facts = Mapping[str, Any]

COLUMNS = f"{'labels of the unlabeled images':<48} {'weight':>6} {'mIoU':>6}  {'against labels alone':<22} against raw"


def format_probe(name: str, facts: Facts) -> str:
    """The table and the verdict. name: of the run; facts: as `probe` returns them"""
    return "\n".join(_lines(name, facts))


def _lines(name: str, facts: Facts) -> Iterator[str]:
    groups = facts["num_groups"]
    unit = "image" if groups is None else "group"
    yield (
        f"{name}: {in_groups(facts['num_labeled'], groups)} in {facts['folds']} folds, {facts['num_unlabeled']} "
        f"unlabeled ones; mIoU of held-out labeled images, differences paired by {unit} [95 % interval]"
    )
    yield ""
    yield f"   {COLUMNS}"
    for row in facts["outcomes"]:
        yield _row(row, is_chosen=all(row[key] == value for key, value in facts["chosen"].items()))
    yield ""
    yield f"verdict  {facts['verdict']}"
    yield f"command  {facts['command']}"


def _row(row: Facts, is_chosen: bool) -> str:
    arm = Arm(Labels(*(row[name] for name in Labels._fields)), row["weight"])
    weight = f"{arm.weight:g}" if arm.weight else "-"
    to_none = "-" if row["labels"] == "none" else _interval(row["to_none"])
    to_raw = "-" if row["labels"] == "raw" else _interval(row["to_raw"])
    mark = "->" if is_chosen else "  "
    return f"{mark} {arm.labels!s:<48} {weight:>6} {100 * row['miou']:>6.1f}  {to_none:<22} {to_raw}"


def _interval(difference: Mapping[str, float]) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * difference[end] for end in ("value", "low", "high")))

"""The tables: their rows, the recipe of each row, and the stages that it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pipeline.errors import ConfigError
from pipeline.settings import STUDENTS, did_you_mean

NOTHING: Mapping[str, Any] = MappingProxyType({})

Shape = Literal["first", "start", "both", "second"]
"""Stages that a run trains. first: Stage I alone. start: Stage I alone, with the learning rate schedule of both stages,
so that its learning rate ends above 0. both: Stage I, then Stage II. second: Stage II alone."""
Targets = Literal["labels", "bias", "masks"]
"""Targets of the unlabeled images in Stage I. labels: pseudo-labels of the recipe's settings. bias: the same, from
logits with a bias for each class that is fitted on the labeled images. masks: their true masks."""


class Recipe(NamedTuple):
    """How a student is trained: a preset with overrides, full name -> value."""

    name: str
    preset: str
    overrides: Mapping[str, Any] = NOTHING
    targets: Targets = "labels"


class Row(NamedTuple):
    """A line of a table: one stage's student of one recipe."""

    key: str
    """Its name in `arms=`."""
    title: str
    recipe: Recipe
    shape: Shape
    paper: str | None = None
    """Its row in `paper.NUMBERS`, if the paper has it."""
    switch: float | None = None
    """Shape both: fraction of the training that is Stage I. Default: the paper's (60 of 80 epochs)."""


class Table(NamedTuple):
    """A table of an experiment."""

    title: str
    rows: Sequence[Row]
    is_of_equal_length: bool = False
    """Whether all rows have the same number of steps, so that both protocols are the same."""
    references: Sequence[str] = ("label-only", "raw")
    """Keys of the rows with which all others are compared, in pairs of the same image."""


LABEL_ONLY = Recipe("label-only", "label-only")
SEMI = Recipe("semi-baseline", "semi-baseline")
RAW = Recipe("raw", "raw")
PAPER = Recipe("paper", "paper")
ALLSPARK = Recipe("allspark", "allspark")
CONFORMAL_ALLSPARK = Recipe("conformalsam-allspark", "conformalsam-allspark")
AUTO = Recipe("auto", "paper", {"pseudolabel.rule": "auto"})
PLUS = Recipe("plus", "plus")
VANILLA = Recipe("vanilla", "paper", {"pseudolabel.rule": "no_background"})
FIXED = Recipe("fixed", "paper", {"calibrate.variant": "fixed"})
BIAS = Recipe("bias", "raw", targets="bias")
EVERY_MASK = Recipe("every-mask", "label-only", targets="masks")
SETS = Recipe(
    "sets", "paper", {"pseudolabel.rule": "singleton", "pseudolabel.keep_sets": True, "stage1.set_loss": "partial"}
)

LABEL_ONLY_ROW = Row("label-only", "label-only", LABEL_ONLY, "first", "Label-only")
RAW_ROW = Row("raw", "raw labels, Stage I", RAW, "first", "SEEM")
RAW_BOTH_ROW = Row("raw-both", "raw labels + self-reliance", RAW, "both", "SEEM + SR")
PAPER_ROW = Row("paper", "calibrated (Eq. 4), Stage I", PAPER, "first", "SEEM + CP")
PAPER_BOTH_ROW = Row("paper-both", "calibrated (Eq. 4) + self-reliance: `paper`", PAPER, "both", "ConformalSAM")
SEMI_ROW = Row("semi-baseline", "self-training: semi-baseline", SEMI, "second", "Semi-Baseline")
COMPARISON = (
    LABEL_ONLY_ROW,
    Row("allspark", "AllSpark", ALLSPARK, "second", "AllSpark"),
    Row("conformalsam-allspark", "ConformalSAM (AllSpark)", CONFORMAL_ALLSPARK, "both", "ConformalSAM (AllSpark)"),
    PAPER_BOTH_ROW,
)
VARIANTS = ("pixel", "image", "kmeans", "genann")
ALPHAS = (0.1, 0.05, 0.01)
RULES = ("no_background", "paper", "singleton", "auto")  # argmax is no_background with one threshold for all classes
SWITCHES = (10, 20, 30, 40, 50, 60, 70)  # of the paper's 80 epochs
COMPARED_STUDENTS = ("tiny", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")


def _grid_row(variant: str, alpha: float) -> Row:
    changes = {"calibrate.variant": variant, "calibrate.alpha": alpha}
    recipe = Recipe(f"{variant}-{alpha:g}", "paper", changes)
    return Row(recipe.name, f"{variant}, alpha {alpha:g}", recipe, "first", recipe.name)


def _rule_row(rule: str) -> Row:
    recipe = AUTO if rule == "auto" else Recipe(f"rule-{rule}", "paper", {"pseudolabel.rule": rule})
    return Row(f"rule-{rule}", f"rule {rule}", recipe, "first", "SEEM + CP" if rule == "paper" else None)


def _switch_row(epochs: int) -> Row:
    return Row(f"switch-{epochs}", f"self-reliance from {epochs}/80 on", PAPER, "both", None, epochs / 80)


def _student_rows(student: str) -> list[Row]:
    changes = {"train.student": student, "train.weights": None}
    alone, both = (Recipe(f"{student}-{preset}", preset, changes) for preset in ("label-only", "paper"))
    return [
        Row(alone.name, f"{student}, label-only", alone, "first"),
        Row(both.name, f"{student}, `paper`", both, "both"),
    ]


TABLES: Mapping[str, Table] = {
    "1": Table("Table 1: the annotator's labels as they are", (LABEL_ONLY_ROW, RAW_ROW)),
    "2": Table("Table 2: comparison, VOC's original splits", COMPARISON),
    "3": Table("Table 3: comparison, VOC's augmented splits", COMPARISON),
    "4": Table("Table 4: comparison, ADE20K", COMPARISON),
    "5": Table("Table 5: what each component adds", (SEMI_ROW, RAW_ROW, RAW_BOTH_ROW, PAPER_ROW, PAPER_BOTH_ROW)),
    "6": Table(
        "Table 6: variants and error rates, Stage I",
        [_grid_row(variant, alpha) for variant in VARIANTS for alpha in ALPHAS],
        is_of_equal_length=True,
    ),
    "fig4": Table("Figure 4: when self-reliance starts", [_switch_row(epochs) for epochs in SWITCHES]),
    "rule": Table("Labeling rules, Stage I", [RAW_ROW, *(_rule_row(rule) for rule in RULES)], is_of_equal_length=True),
    "sets": Table(
        "Do prediction sets teach? Stage I",
        (
            _rule_row("singleton"),
            Row("sets", "rule singleton, and the sets of the pixels without a label", SETS, "first"),
            _rule_row("paper"),
        ),
        is_of_equal_length=True,
        references=("rule-singleton",),
    ),
    "students": Table(
        "Students on the same labels",
        [row for student in COMPARED_STUDENTS if student in STUDENTS for row in _student_rows(student)],
    ),
    "evidence": Table(
        "What each step is worth",
        (
            LABEL_ONLY_ROW,
            SEMI_ROW,
            RAW_ROW,
            RAW_BOTH_ROW,
            Row("vanilla", "vanilla CP (no background rule), Stage I", VANILLA, "first"),
            Row("fixed", "foreground rule, fixed threshold, Stage I", FIXED, "first"),
            Row("bias", "raw labels of logits corrected on the labeled images, Stage I", BIAS, "first"),
            PAPER_ROW,
            PAPER_BOTH_ROW,
            Row("auto", "rule auto, Stage I", AUTO, "first"),
            Row("auto-both", "rule auto + self-reliance", AUTO, "both"),
            Row("plus", "`plus`", PLUS, "both"),
            Row("every-mask", "all masks (upper bound)", EVERY_MASK, "first"),
        ),
    ),
}


def table_of(name: str) -> Table:
    """A table by name; ConfigError for an unknown name, with the known ones."""
    if name not in TABLES:
        known = list(TABLES)
        raise ConfigError(f"table is {name!r}, expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return TABLES[name]


def chosen_rows(name: str, arms: Sequence[str] | None) -> list[Row]:
    """Rows of a table, all or those with the keys `arms`, in the table's order; ConfigError for an unknown key."""
    rows = table_of(name).rows
    known = [row.key for row in rows]
    for arm in arms or ():
        if arm not in known:
            raise ConfigError(
                f"arms has {arm!r}, which is not in table {name}; expected some of {', '.join(known)}"
                f"{did_you_mean(arm, known)}"
            )
    return [row for row in rows if arms is None or row.key in arms]

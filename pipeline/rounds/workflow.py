"""What the Snakefile needs of the folds whose students annotate a run."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.marks import mark_of, update_mark
from pipeline.rounds.base import base_run
from pipeline.rounds.folds import Fold, folds_of
from pipeline.settings import Settings


def folds_for(settings: Settings) -> list[Fold]:
    """Folds whose students annotate a run; [] for any other annotator.

    raises: as `base_run` and `folds_of`
    """
    chosen = settings.annotate.student
    if not settings.needs_annotator or settings.annotate.annotator != "student" or chosen is None:
        return []
    return folds_of(base_run(settings, chosen), chosen.folds)


def fold_named(settings: Settings, name: str) -> Fold:
    """A fold whose student annotates a run, by name; ConfigError for any other name."""
    folds = {fold.name: fold for fold in folds_for(settings)}
    if name not in folds:
        raise ConfigError(f"run {settings.name} has no fold {name!r}; give one of {', '.join(folds) or 'none'}")
    return folds[name]


def fold_mark(folder: Path) -> Path:
    """Mark of a fold, by its folder."""
    return mark_of(folder / "stage2.json")


def update_fold_marks(folds: list[Fold]) -> None:
    """Create or remove the mark of each fold; OSError if its folder cannot be written."""
    for fold in folds:
        update_mark(fold.run.folder.receipt("stage2"), "stage2", {}, fold.is_finished)

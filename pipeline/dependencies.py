"""What the result of a stage depends on: the stages before it and their receipts, and settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pipeline.errors import UserError
from pipeline.folder import Folder
from pipeline.receipt import read_receipt
from pipeline.settings import Settings


def stages_before(settings: Settings, stage: str) -> tuple[str, ...]:
    """Stages whose results a stage reads."""
    labels = "pseudolabel" if settings.needs_annotator else "prepare"
    probe = ("probe",) if settings.pseudolabel.rule == "probe" else ()
    return {
        "prepare": (),
        "annotate": ("prepare",),
        "calibrate": ("annotate",),
        "probe": ("calibrate",),
        "pseudolabel": ("calibrate", *probe),
        "stage1": (labels,),
        "stage2": ("stage1",),
        "evaluate": ("stage2",),
        "baseline": ("prepare",),
        "report": ("evaluate", *(("baseline",) if settings.baseline else ())),
    }[stage]


def receipts_before(settings: Settings, stage: str) -> dict[str, Path]:
    """Name -> receipt of what a stage is made from: the stages before it, and students of another run's folds."""
    own = Folder(settings.folder)
    receipts = {before: own.receipt(before) for before in stages_before(settings, stage)}
    chosen = settings.annotate.student
    if stage == "annotate" and settings.annotate.annotator == "student" and chosen is not None:
        base = Folder(Path(settings.results) / chosen.run)
        folds = [base.fold(number + 1, chosen.folds) for number in range(chosen.folds)]
        receipts |= {f"fold {fold.name}": Folder(fold).receipt("stage2") for fold in folds}
    return receipts


def tracked_settings(settings: Settings, stage: str) -> dict[str, Any]:
    """Every setting that the result of a stage depends on, directly or through the stages before it."""
    tracked: dict[str, Any] = {}
    for before in stages_before(settings, stage):
        tracked |= tracked_settings(settings, before)
    return as_json(tracked | _tracked_directly(settings, stage))


def _tracked_directly(settings: Settings, stage: str) -> dict[str, Any]:
    own, train = settings, settings.train
    match stage:
        case "prepare":
            return {"data": own.data.tracked()}
        case "calibrate":
            all_of_them = {"alphas": own.alphas, "variants": own.variants}
            return {"calibrate": own.calibrate.tracked(), **all_of_them, **tracked_guarantee(settings)}
        case "probe":  # it augments as training does
            views = {"crop": train.crop, "scale": train.scale, "flip": train.flip}
            return {"probe": own.probe.tracked(), "views": views, "seed": own.seed}
        case "stage1":  # one learning rate schedule runs over both stages
            after = {"epochs": own.stage2.epochs, "batch_unlabeled": own.stage2.batch_unlabeled}
            stage2 = after if train.lr_scope == "both" else {}
            return {"seed": own.seed, "train": train.tracked(), "stage1": own.stage1.tracked(), "stage2": stage2}
        case "baseline":
            sections = ("train", "stage1", "stage2", "evaluate")
            return {"seed": own.seed, **{name: getattr(own, name).tracked() for name in sections}}
        case "report":
            return {"gallery": own.gallery.tracked()}
        case _:
            return {stage: getattr(own, stage).tracked()}


def tracked_guarantee(settings: Settings) -> dict[str, Any]:
    """`pseudolabel.guarantee` by its name, which calibrate depends on; {} without one."""
    guarantee = settings.pseudolabel.guarantee
    return {} if guarantee is None else {"guarantee": guarantee.tracked()}


def is_stale(receipt: Path, stage: str, tracked: Mapping[str, Any]) -> bool:
    """Whether a receipt was written with other settings, or is damaged."""
    try:
        return receipt.is_file() and read_receipt(receipt, stage)["settings"] != as_json(tracked)
    except UserError:
        return True


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON, as they are read from a receipt: tuples become lists, and keys become strings."""
    return cast(dict[str, Any], json.loads(json.dumps(settings)))


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Full name and both values of every setting that differs; None for a missing one."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now

"""The state of a run: the stages that have finished, with their key numbers, and its stores."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.calibration.shift import shift_sentence
from pipeline.errors import RecordError, StoreError, UserError
from pipeline.experiment.baseline import against_baseline
from pipeline.folder import FILE_OF
from pipeline.inspect.held_out import held_out_facts
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE, LabelStore, open_for_inspection, refuse_lost, store_exists

Facts = Mapping[str, Any]
ANNOTATED = ("annotate", "calibrate", "pseudolabel")  # stages of a run that trains on pseudo-labels

KEY_NUMBERS: dict[str, Callable[[Facts], dict[str, Any]]] = {
    "prepare": lambda facts: dict(facts["num_samples"]),
    "annotate": lambda facts: {
        "annotator": facts["annotator"],
        "images": facts["num_done"],
        "failed": len(facts["failed"]),
    },
    "calibrate": lambda facts: {
        "variant": facts["variant"],
        "alphas": facts["alphas"],
        "labeled": facts["num_labeled"],
    },
    "probe": lambda facts: {"verdict": facts["verdict"]},
    "pseudolabel": lambda facts: {
        **{name: facts[name] for name in ("variant", "alpha", "rule", "keep_rate")},
        "images": facts["num_images"],
        "failed": facts["num_failed"],
    },
    "stage1": lambda facts: _training(facts),
    "stage2": lambda facts: _training(facts),
    "evaluate": lambda facts: {
        "val": facts["num_val"],
        **{f"{name} mIoU": student["miou"] for name, student in facts["students"].items()},
    },
    "baseline": lambda facts: {"steps": facts["num_steps"], "mIoU": facts["miou"]},
    "report": lambda facts: {"megabytes": facts["megabytes"]},
}
"""Stage -> numbers shown from its receipt, in the order of the data flow."""


def _training(facts: Facts) -> dict[str, Any]:
    last = facts.get("last") or {}
    return {"epochs": facts["num_epochs"], "steps": facts["num_steps"], "mIoU": last.get("miou")}


def inspect_run(settings: Settings) -> dict[str, Any]:
    """Stages and stores of a run, finished or not, as JSON can store them."""
    run = Run(settings)
    stages = {stage: _stage(run, stage) for stage in KEY_NUMBERS if _has_stage(run, stage)}
    is_complete = all(facts and "problem" not in facts and not facts["other_settings"] for facts in stages.values())
    return {
        "run": settings.name,
        "folder": str(run.folder.path),
        "stages": stages,
        "stores": [_store(path) for kind in FILE_OF if store_exists(path := run.folder.store(kind))],
        **_on_labels(run),
        "against_baseline": _against_baseline(run),
        "report": str(run.folder.report) if run.folder.report.is_file() else None,
        "next": None if is_complete else run.command("all"),
    }


def _has_stage(run: Run, stage: str) -> bool:
    if stage == "probe":
        return run.settings.pseudolabel.rule == "probe" or run.has_receipt(stage)
    if stage == "baseline":
        return run.settings.baseline or run.has_receipt(stage)
    return run.settings.needs_annotator or stage not in ANNOTATED


def _stage(run: Run, stage: str) -> dict[str, Any] | None:
    """Time at which a stage finished, whether with other settings, and its key numbers; None if it has not finished.

    For a receipt that cannot be read, and scores of a student that was trained again since: the problem.
    """
    if not run.has_receipt(stage):
        return None
    try:
        numbers = KEY_NUMBERS[stage](run.recorded(stage))
        if stage == "evaluate":
            run.refuse_other_students(run.recorded("evaluate"))
    except (RecordError, StoreError) as error:
        return {"problem": str(error)}
    finished = datetime.fromtimestamp(run.folder.receipt(stage).stat().st_mtime).isoformat(" ", "minutes")
    return {"finished": finished, "other_settings": run.is_stale(stage), "numbers": numbers}


def _on_labels(run: Run) -> dict[str, str | None]:
    """`runner_up`: that of rule auto; `shift`: whether the unlabeled images differ from the labeled ones; sentences."""
    nothing: dict[str, str | None] = {"runner_up": None, "shift": None}
    if not run.has_receipt("pseudolabel"):
        return nothing
    try:
        receipt = run.recorded("pseudolabel")
    except RecordError:  # its stage shows the problem
        return nothing
    return {"runner_up": receipt.get("runner_up"), "shift": shift_sentence(receipt["shift"])}


def _against_baseline(run: Run) -> dict[str, float] | None:
    """mIoU of the student minus that of the labels alone, with its interval; None without a finished baseline."""
    try:
        gap = against_baseline(run.settings)
    except UserError:  # `--check` shows the problem
        return None
    return None if gap is None else gap._asdict()


def _store(path: Path) -> dict[str, Any]:
    """Whether a store is complete and how many images are done, or the problem if it cannot be opened.

    Of labels also the verdict: whether they are better than the annotator's own argmax on held-out images.
    """
    facts: dict[str, Any] = {"path": str(path)}
    try:
        store = open_for_inspection(path)
        refuse_lost(store)
        status = store.status
    except StoreError as error:
        return facts | {"problem": str(error)}
    done = int((status == DONE).sum())
    facts |= {"complete": bool(store.state["complete"]), "images": len(status), "done": done}
    return facts | ({"verdict": held_out_facts(store).get("verdict")} if isinstance(store, LabelStore) else {})


def format_run(facts: Facts) -> str:
    """The facts of `inspect_run` as lines."""
    return "\n".join(f"{word:<12}{text}" for word, text in _lines(facts))


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "run", f"{facts['run']}, in {facts['folder']}"
    for stage, stage_facts in facts["stages"].items():
        yield stage, "not finished" if stage_facts is None else _stage_line(stage_facts)
    for store in facts["stores"]:
        if "problem" in store:
            yield "store", store["problem"]
            continue
        state = "complete" if store["complete"] else "incomplete"
        yield "store", f"{store['path']}: {state}, {store['done']} of {store['images']} images"
        if store.get("verdict"):
            yield "verdict", store["verdict"]
    if facts["runner_up"]:
        yield "runner-up", facts["runner_up"]
    if facts["shift"]:
        yield "shift", facts["shift"]
    if facts["against_baseline"]:
        value, low, high = (f"{100 * facts['against_baseline'][name]:+.1f}" for name in ("value", "low", "high"))
        yield "baseline", f"mIoU of the student minus that of labels alone: {value}, 95 % interval {low} to {high}"
    if facts["stores"]:
        yield "", f"one store in full: conformalsam inspect {shlex.quote(str(facts['stores'][-1]['path']))}"
    if facts["report"]:
        yield "report", facts["report"]
    if facts["next"]:
        yield "next", facts["next"]


def _stage_line(facts: Facts) -> str:
    if "problem" in facts:
        return str(facts["problem"])
    numbers = ", ".join(_shown(*item) for item in facts["numbers"].items())
    other = ", made with other settings than these" if facts["other_settings"] else ""
    return f"{numbers}; finished {facts['finished']}{other}"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(f"{entry:g}" for entry in value)
    elif isinstance(value, float):
        value = f"{value:.3g}"
    return f"{name.replace('_', ' ')} {'-' if value is None else value}"

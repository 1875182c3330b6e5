"""Checks all files of a run: samples, receipts, stores, checkpoints, students and caches."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pipeline.digests import changed_files, has_own_digest, unlisted_files
from pipeline.errors import StoreError, UserError
from pipeline.folder import FILE_OF, STAGE_OF
from pipeline.inspect.check import check_store
from pipeline.inspect.findings import Finding, finding_of
from pipeline.record import is_whole
from pipeline.run import Run, TrainingStage
from pipeline.settings import Settings
from pipeline.store import store_exists

STAGES = (
    "prepare",
    "annotate",
    "calibrate",
    "probe",
    "pseudolabel",
    "stage1",
    "stage2",
    "evaluate",
    "baseline",
    "report",
)
TRAINING: tuple[TrainingStage, ...] = get_args(TrainingStage)


def check_run(settings: Settings) -> dict[str, Any]:
    """What was checked of a run, by kind, and everything that is damaged or missing, as JSON can store it.

    A stage that has not finished is not a finding. Every file is read completely.
    """
    run = Run(settings)
    results = [*_records(run), *_stores(run), *_training(run), *_evaluation(run), *_caches(run)]
    findings = {finding.where: finding for finding in reversed(results)}  # the first finding of each file
    return {
        "run": settings.name,
        "folder": str(run.folder.path),
        "checked": _checked(run),
        "findings": [finding._asdict() for finding in reversed(findings.values())],
    }


def format_run_check(facts: Mapping[str, Any]) -> str:
    """The facts of `check_run` as lines."""
    lines = [("run", f"{facts['run']}, in {facts['folder']}")]
    lines += [(kind, ", ".join(names)) for kind, names in facts["checked"].items() if names]
    lines += [("found", f"{f['what']}: {f['where']}; run {f['command']}") for f in facts["findings"]]
    if not facts["findings"]:
        lines.append(("found", "nothing"))
    return "\n".join(f"{word:<12}{text}" for word, text in lines)


def _checked(run: Run) -> dict[str, list[str]]:
    """Kind -> names of the files and folders that exist."""
    folder = run.folder
    return {
        "samples": [folder.samples.name] if folder.samples.is_file() else [],
        "receipts": [stage for stage in STAGES if run.has_receipt(stage)],
        "stores": [path.relative_to(folder.path).as_posix() for path in _paths_of_stores(run) if store_exists(path)],
        "checkpoints": [stage for stage in TRAINING if folder.checkpoint(stage).is_file()],
        "students": [
            path.relative_to(folder.path).as_posix()
            for stage in TRAINING
            for path in (folder.student(stage), folder.best_student(stage))
            if path.is_dir()
        ],
    }


def _paths_of_stores(run: Run) -> list[Path]:
    return [*map(run.folder.member, run.settings.members), *map(run.folder.store, FILE_OF)]


def _records(run: Run) -> Iterator[Finding]:
    """Findings in samples.json and the receipts: their digests and fields."""
    finished = [stage for stage in STAGES if run.has_receipt(stage)]
    if finished or run.folder.samples.is_file():
        try:
            run.samples()
        except UserError as error:
            yield finding_of("samples", error, run.command("prepare"))
    for stage in finished:
        try:
            run.recorded(stage)
        except UserError as error:
            yield finding_of("receipt", error, run.command(stage))


def _stores(run: Run) -> Iterator[Finding]:
    """Findings in the stores, which are read completely; and stores that are missing after their stage has finished."""
    for path in map(run.folder.member, run.settings.members):
        if store_exists(path):
            yield from _findings_in(path, run.command("annotate"))
    for kind, stage in STAGE_OF.items():
        path = run.folder.store(kind)
        if store_exists(path):
            yield from _findings_in(path, run.command(stage))
        elif run.has_receipt(stage) and not (kind == "probabilities" and run.has_receipt("pseudolabel")):
            where = f"{path} is missing, but {stage} has finished according to {run.folder.receipt(stage)}"
            yield Finding("missing", where, run.command(stage, rerun=stage), "by hand")


def _findings_in(path: Path, again: str) -> list[Finding]:
    """Findings in one store, except that its stage has not finished. again: command that makes it"""
    try:
        findings = check_store(path).findings
    except StoreError as error:
        findings = [finding_of("metadata", error, again)]
    return [finding for finding in findings if (finding.what, finding.fix) != ("unfinished", "stage")]


def _training(run: Run) -> Iterator[Finding]:
    """Checkpoints and students that differ from the receipt or, before it exists, from their own digests."""
    for stage in TRAINING:
        folder, checkpoint = run.folder.training(stage), run.folder.checkpoint(stage)
        listed = _listed(run, stage)
        if listed is not None:
            changed = [folder / name for name in changed_files(folder, listed)]
        else:
            students = [run.folder.student(stage), run.folder.best_student(stage)]
            changed = [path / name for path in students if path.is_dir() for name in unlisted_files(path)]
            if checkpoint.is_file() and not has_own_digest(checkpoint):
                changed.append(checkpoint)
        for path in changed:
            again = run.command(stage, rerun=None if listed is None else stage)
            yield Finding(_kind_of(path), f"{path}, so {stage} starts from the beginning", again, "by hand")


def _evaluation(run: Run) -> Iterator[Finding]:
    """Predictions and counts that differ from the receipt of evaluate."""
    for name in changed_files(run.folder.evaluation, _listed(run, "evaluate") or {}):
        path = run.folder.evaluation / name
        yield Finding(_kind_of(path), str(path), run.command("evaluate", rerun="evaluate"), "by hand")


def _listed(run: Run, stage: str) -> dict[str, str] | None:
    """File -> SHA-256 in the receipt of a stage; None if the receipt is missing or damaged."""
    try:
        files: dict[str, str] = run.recorded(stage)["files"]  # type: ignore[typeddict-item]
    except UserError:
        return None
    return files


def _caches(run: Run) -> Iterator[Finding]:
    """Damaged records that commands write again when they need them."""
    for path in (run.folder.sweep, run.folder.exported, *sorted(run.folder.probe.glob("students/*.json"))):
        if path.is_file() and not is_whole(path):
            yield Finding("corrupt", str(path), f"rm {shlex.quote(str(path))}", "by hand")


def _kind_of(path: Path) -> str:
    return "corrupt" if path.exists() else "missing"

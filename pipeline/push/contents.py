"""The folders that are uploaded: labels as a data set, a student as a model. Each is complete when it appears."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline.digests import write_sums
from pipeline.errors import TrainingError
from pipeline.exchange import export_labels
from pipeline.exchange.choice import choose_images
from pipeline.exchange.labels import open_exported
from pipeline.exchange.provenance import provenance, without_folders
from pipeline.exchange.texts import render
from pipeline.files import replacing_folder, write_json, write_text
from pipeline.folder import PROVENANCE
from pipeline.receipt import package_versions
from pipeline.run import Run, TrainingStage


def labels_folder(run: Run, with_images: bool, licence: str | None = None) -> Path:
    """Write the pseudo-labels of a run as a data set, push/labels of the run; returns the folder.

    with_images: whether the images are in it too
    licence:     of the labels, for the card; None: none is stated
    raises:      StoreError if the labels do not exist, are damaged or do not belong to the run
    """
    run.open_labels()
    out = run.folder.push("labels")
    export_labels(
        run.folder.labels,
        "huggingface" if with_images else "huggingface-masks",
        out,
        root=Path(run.settings.data.root),
        licence=licence,
    )
    return out


def student_folder(run: Run, repository: str, licence: str | None = None) -> Path:
    """Write the student of the last finished training stage as a model, push/student of the run; returns the folder.

    repository: USER/NAME, for the commands in the card
    licence:    of the student, for the card; None: none is stated
    raises:     TrainingError without a finished stage; StoreError if it was run with other settings, if the student
                is not as the stage wrote it, or if it was trained again since evaluate measured it
    """
    stages: tuple[TrainingStage, ...] = ("stage2", "stage1")
    stage = next((stage for stage in stages if run.has_receipt(stage)), None)
    if stage is None:
        raise TrainingError(f"no student in {run.folder.path}; run {run.command('stage1')}")
    student, out = run.folder.student(stage), run.folder.push("student")
    facts = {"licence": licence, **_student_facts(run, stage)}
    run.check_file(stage, student)
    with replacing_folder(out) as part:
        shutil.copytree(student, part)
        write_json(part / PROVENANCE, facts)
        write_text(part / "README.md", render("student_card.md", **facts, repository=repository))
        write_sums(part)
    return out


def _student_facts(run: Run, stage: TrainingStage) -> dict[str, Any]:
    """Facts of a student and of the labels that it was trained on, for its card and JSON."""
    settings, trained, prepared = run.settings, run.receipt(stage), run.receipt("prepare")
    measured = run.receipt("evaluate") if run.has_receipt("evaluate") else None
    facts: dict[str, Any] = {
        "stage": stage,
        "network": settings.train.student,
        "pretrained": settings.train.weights,
        "classes": settings.data.class_names,
        "num_labeled": prepared["num_samples"]["labeled"],
        "num_steps": trained["num_steps"],
        "num_val": None if measured is None else measured["num_val"],
        "scores": None if measured is None else measured["students"].get(stage),
        "labels": _labels_facts(run),
        "training": trained["settings"],
        "versions": package_versions(),
    }
    return dict(without_folders(facts))


def _labels_facts(run: Run) -> dict[str, Any] | None:
    """Provenance of the pseudo-labels that Stage I was trained on; None without them, or if other labels exist now."""
    trained_on = run.receipt("stage1")["labels_fingerprint"]
    if trained_on is None or not run.folder.labels.exists():
        return None
    exported = open_exported(run.folder.labels)
    facts = provenance(exported, choose_images(exported), "huggingface")
    return facts if facts["fingerprint"] == trained_on else None

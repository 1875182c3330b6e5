"""Receipts: small JSON files that stages write last, atomically. If a receipt exists, its stage is complete."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # pydantic does not check typing's before Python 3.12
)

from typing_extensions import TypedDict

from pipeline.errors import RecordError, StoreError, UserError
from pipeline.folder import Folder, stage_command
from pipeline.record import digest_in, read_record, write_record

PACKAGES = ("conformalsam", "numpy", "zarr", "dask", "torch", "transformers")
_version = functools.cache(version)  # reading six of them takes longer than writing a receipt


class Receipt(TypedDict):
    """Fields of every receipt.

    stage:    name of the stage
    settings: the settings that the result depends on, by section
    versions: package -> version
    sources:  fingerprint of the images and masks that it depends on (`Run.sources`); prepare's receipt has none
    inputs:   name of what it was made from -> digest of its receipt then, of prepare: of samples.json
    config:   arguments of `--config` that select the run in a command; the receipts of an experiment have none
    store:    facts of the store that the stage wrote, for its repair
    """

    stage: str
    sources: NotRequired[str | None]
    inputs: NotRequired[dict[str, str]]
    config: NotRequired[list[str]]
    store: NotRequired[dict[str, Any]]
    settings: dict[str, Any]
    versions: dict[str, str]


class PrepareReceipt(Receipt):
    num_samples: dict[str, int]
    labeled_images_per_class: dict[str, int]
    labeled_pixels_per_class: dict[str, int]
    seconds: float


class AnnotateReceipt(Receipt):
    """failed: id of an image -> why it has no maps

    without_prompt: names of the classes that the annotator has no prompt or channel for
    warnings:       about these classes, and signs of a wrong class map
    runs_on:        names of the devices or libraries that computed the maps, if the annotator gives them
    members:        of an ensemble, by name: the same facts of each, and its weight
    log_losses:     mean log-losses on the labeled images that weights were fitted on, by what was weighted
    """

    fingerprint: str
    annotator: str
    space: str
    maps: list[int]
    dtype: str
    num_done: int
    failed: dict[str, str]
    without_prompt: NotRequired[list[str]]
    runs_on: NotRequired[list[str]]
    warnings: NotRequired[list[str]]
    members: NotRequired[dict[str, Any]]
    log_losses: NotRequired[dict[str, float]]
    megabytes: float
    seconds: float


class CalibrateReceipt(Receipt):
    """beside: facts of the other variants; held_out: None if no image can be held out.

    guarantee: of the precision of labels, as `guarantee_facts`; None without one

    runner_up: of rule auto, as `runner_up_facts`; None without one
    """

    fingerprint: str
    alpha: float
    variant: str
    class_thresholds: str
    quantile: str
    alphas: list[float]
    num_labeled: int
    num_valid: dict[str, int]
    never_labeled_fraction: float
    thresholds: list[dict[str, Any]]
    fallen_back: int
    beside: dict[str, dict[str, Any]]
    held_out: dict[str, Any] | None
    guarantee: NotRequired[dict[str, Any] | None]
    runner_up: NotRequired[dict[str, Any] | None]
    seconds: float


class ProbeReceipt(Receipt):
    """fingerprint: of the calibration whose labels the probe compares."""

    fingerprint: str
    chosen: dict[str, Any]
    verdict: str
    command: str
    outcomes: list[dict[str, Any]]


class PseudolabelReceipt(Receipt):
    """guarantee: of the precision of the labels, a sentence; None without one

    runner_up: of rule auto, a sentence; None without one

    shift: facts of `calibration.shift.shift_facts`

    teaching_pixels: pixels without a label whose set can teach; None if sets are not kept
    """

    fingerprint: str
    alpha: float
    alphas: list[float]
    rule: str
    variant: str
    guarantee: NotRequired[str | None]
    runner_up: NotRequired[str | None]
    num_images: int
    num_failed: int
    keep_rate: float
    teaching_pixels: NotRequired[int | None]
    shift: dict[str, Any] | None


class TrainingReceipt(Receipt):
    """last, best: point of the learning curve; None if there is no curve.

    files: path in the stage's folder -> SHA-256
    """

    fingerprint: str
    num_steps: int
    num_epochs: int
    last: dict[str, Any] | None
    best: dict[str, Any] | None
    files: dict[str, str]


class Stage1Receipt(TrainingReceipt):
    """labels_fingerprint: None without pseudo-labels."""

    plan_fingerprint: str
    labels_fingerprint: str | None


class Stage2Receipt(TrainingReceipt):
    stage1_fingerprint: str


class EvaluateReceipt(Receipt):
    """files: path in the folder of the evaluation -> SHA-256

    weights: `Run.student_digest` of the students that were measured, by stage; earlier versions did not record it
    """

    num_val: int
    students: dict[str, dict[str, Any]]
    weights: NotRequired[dict[str, str]]
    final: str
    files: dict[str, str]


class BaselineReceipt(Receipt):
    """Scores of the student of the labeled images alone, as in the receipt of evaluate."""

    num_steps: int
    num_val: int
    miou: float | None
    miou_interval: dict[str, float] | None
    pixel_accuracy: float | None
    iou: dict[str, float | None]


class ReportReceipt(Receipt):
    megabytes: float


SCHEMAS: dict[str, type] = {
    "prepare": PrepareReceipt,
    "annotate": AnnotateReceipt,
    "calibrate": CalibrateReceipt,
    "probe": ProbeReceipt,
    "pseudolabel": PseudolabelReceipt,
    "stage1": Stage1Receipt,
    "stage2": Stage2Receipt,
    "evaluate": EvaluateReceipt,
    "baseline": BaselineReceipt,
    "report": ReportReceipt,
}
"""Stage -> fields that its receipt must have. The receipt of an experiment must have those of `Receipt`."""


def fingerprint(facts: Mapping[str, Any]) -> str:
    """16 hex digits that identify a mapping: the first 64 bits of the SHA-256 of its JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_receipt(path: Path, stage: str, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write what a finished stage counted and measured, with its settings and the versions of the packages."""
    write_record(path, {"stage": stage, **facts, "settings": dict(settings), "versions": package_versions()})


def result_of(receipt: Path) -> Path:
    """The record that stands for the result of a finished stage: its receipt; of prepare samples.json.

    A repeated prepare that lists the same samples repeats nothing.
    """
    folder = Folder(receipt.parent)
    return folder.samples if receipt == folder.receipt("prepare") else receipt


def input_digests(inputs: Mapping[str, Path]) -> dict[str, str]:
    """Name -> digest of the result, of those inputs that are there. inputs: name -> receipt"""
    digests = {name: digest_in(result_of(receipt)) for name, receipt in inputs.items()}
    return {name: digest for name, digest in digests.items() if digest is not None}


def follows(receipt: Mapping[str, Any], inputs: Mapping[str, Path]) -> bool | None:
    """Whether a receipt was written after its stage had read what is there now.

    This does not depend on the times of files, which are wrong if a clock was set or a folder was copied.

    inputs:  name -> receipt of what the stage reads
    returns: None if the receipt does not tell
    """
    recorded = receipt.get("inputs", {})
    return recorded == input_digests(inputs) if recorded.keys() == inputs.keys() else None


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, by package."""
    return {package: _version(package) for package in PACKAGES}


def has_receipt(path: Path, stage: str) -> bool:
    """Whether a stage has finished: its receipt exists and is undamaged."""
    try:
        read_receipt(path, stage)
    except UserError:
        return False
    return True


def read_receipt(path: Path, stage: str, again: str | None = None) -> dict[str, Any]:
    """Facts of a finished stage.

    again:  command that runs it; default: of the run whose folder contains the receipt
    raises: StoreError if it has not finished; RecordError for a receipt that is damaged, or of another stage or version
    """
    run = again or stage_command(path, stage)
    if not path.is_file():
        raise StoreError(f"no receipt {path}: the stage {stage} has not finished; run {run}")
    facts = read_record(path, run, SCHEMAS.get(stage, Receipt))
    if facts["stage"] != stage:
        raise RecordError(f"{path} is the receipt of the stage {facts['stage']}, expected {stage}; run {run}")
    return facts

"""How exported labels were made: facts of the store, and of the receipts that belong to it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.calibration.rows import find_row
from pipeline.exchange.choice import Choice
from pipeline.exchange.labels import ExportedLabels
from pipeline.folder import Folder
from pipeline.receipt import PACKAGES, read_receipt

FILE_NAME = "provenance.json"
ESTIMATES = ("coverage", "precision", "keep_rate", "miou")

Facts = dict[str, Any]


def provenance(exported: ExportedLabels, choice: Choice, format_name: str) -> Facts:
    """Facts of an export for JSON. Facts of a receipt are None if it is missing or belongs to other labels."""
    store = exported.store
    folder = store.path.parent
    annotated, calibrated, labeled = (_receipt(folder, name) for name in ("annotate", "calibrate", "pseudolabel"))
    if labeled.get("fingerprint") != store.fingerprint:
        annotated = calibrated = {}
    if calibrated.get("fingerprint") != store.state.get("calibration"):
        calibrated = {}
    return {
        "format": format_name,
        "labels": str(store.path),
        "fingerprint": store.fingerprint,
        "calibration": store.state.get("calibration"),
        "alpha": exported.alpha,
        "rule": store.state.get("rule"),
        "variant": store.state.get("variant"),
        "annotator": annotated.get("annotator"),
        "annotator_settings": annotated.get("settings", {}).get("annotate"),
        "maps": annotated.get("fingerprint"),
        "num_labeled": calibrated.get("num_labeled"),
        "held_out": _held_out(calibrated, exported),
        "classes": exported.class_names,
        "background": exported.background,
        "num_images": len(choice.indices),
        "left_out": {name: annotated.get("failed", {}).get(name) for name in choice.left_out},
        "versions": {package: version(package) for package in PACKAGES},
    }


def _receipt(folder: Path, stage: str) -> Facts:
    path = Folder(folder).receipt(stage)
    return read_receipt(path, stage) if path.is_file() else {}


def _held_out(calibrated: Facts, exported: ExportedLabels) -> Facts | None:
    """Estimates on held-out labeled images for the alpha and rule of these labels."""
    state = exported.store.state
    row = find_row(calibrated.get("held_out"), state.get("variant", ""), exported.alpha, state.get("rule", ""))
    return None if row is None else {name: row[name] for name in ESTIMATES}

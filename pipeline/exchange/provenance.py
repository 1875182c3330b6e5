"""How exported labels were made: facts of the store, and of the receipts that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import calib
from pipeline.annotators.catalogue import licence_of
from pipeline.calibration.guarantee import guarantee_of
from pipeline.calibration.rows import find_row
from pipeline.exchange.choice import Choice
from pipeline.exchange.labels import ExportedLabels
from pipeline.folder import Folder
from pipeline.receipt import PACKAGES, read_receipt

ESTIMATES = ("coverage", "precision", "keep_rate", "miou")

Facts = dict[str, Any]


def provenance(exported: ExportedLabels, choice: Choice, format_name: str, licence: str | None = None) -> Facts:
    """Facts of an export for JSON. Facts of a receipt are None if it is missing or belongs to other labels.

    licence: of the labels, as the user states it
    """
    store = exported.store
    folder = store.path.parent
    annotated, calibrated, labeled = (_receipt(folder, name) for name in ("annotate", "calibrate", "pseudolabel"))
    if labeled.get("fingerprint") != store.fingerprint:
        annotated = calibrated = {}
    if calibrated.get("fingerprint") != store.state.get("calibration"):
        calibrated = {}
    facts = {
        "format": format_name,
        "licence": licence,
        "labels": str(store.path),
        "fingerprint": store.fingerprint,
        "calibration": store.state.get("calibration"),
        "alpha": exported.alpha,
        "rule": store.state.get("rule"),
        "variant": store.state.get("variant"),
        "annotator": annotated.get("annotator"),
        "annotator_licence": _licence(annotated),
        "annotator_settings": annotated.get("settings", {}).get("annotate"),
        "maps": annotated.get("fingerprint"),
        "num_labeled": calibrated.get("num_labeled"),
        "coverage_target": _coverage_target(exported),
        "guarantee": _guarantee(calibrated, exported),
        "held_out": _held_out(calibrated, exported),
        "classes": exported.class_names,
        "background": exported.background,
        "num_images": len(choice.indices),
        "left_out": {name: annotated.get("failed", {}).get(name) for name in choice.left_out},
        "versions": {package: version(package) for package in PACKAGES},
    }
    return dict(without_folders(facts))


def without_folders(facts: Any) -> Any:
    """Facts with the last part of every absolute path in its place: folders of this machine do not leave it."""
    if isinstance(facts, Mapping):
        return {name: without_folders(value) for name, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [without_folders(value) for value in facts]
    return Path(facts).name if isinstance(facts, str) and Path(facts).is_absolute() else facts


def _receipt(folder: Path, stage: str) -> Facts:
    path = Folder(folder).receipt(stage)
    return read_receipt(path, stage) if path.is_file() else {}


def _licence(annotated: Facts) -> str | None:
    """Licence of the published weights that annotate used; None for others."""
    settings = annotated.get("settings", {}).get("annotate", {})
    chosen = settings.get(settings.get("annotator")) or {}
    weights = chosen.get("model") or chosen.get("checkpoint")
    return None if weights is None else licence_of(str(weights))


def _coverage_target(exported: ExportedLabels) -> float | None:
    """1 - alpha, in [0, 1]; None for a variant whose alpha bounds something else than the coverage."""
    is_of_coverage = calib.find_variant(exported.store.state["variant"]).bounds == "coverage"
    return 1 - exported.alpha if is_of_coverage else None


def _guarantee(calibrated: Facts, exported: ExportedLabels) -> str | None:
    """What is proven about these labels, one sentence.

    returns: None if they are of another variant than the run's: it was chosen on the same labeled images
    """
    is_of_run = calibrated.get("variant") == exported.store.state.get("variant")
    return guarantee_of(calibrated, exported.alpha).text if calibrated and is_of_run else None


def _held_out(calibrated: Facts, exported: ExportedLabels) -> Facts | None:
    """Estimates on held-out labeled images for the alpha and rule of these labels."""
    state = exported.store.state
    row = find_row(calibrated.get("held_out"), state.get("variant", ""), exported.alpha, state.get("rule", ""))
    return None if row is None else {name: row[name] for name in ESTIMATES}

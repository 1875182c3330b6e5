"""Receipts: the small JSON files that stages write last, atomically. A receipt exists = its stage is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.files import read_json, write_json

PACKAGES = ("conformalsam", "numpy", "zarr", "dask", "torch", "transformers")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """16 hex digits that two mappings share only if they are equal as JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_receipt(path: Path, stage: str, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write what a finished stage counted and measured, with the settings and versions behind it."""
    versions = {package: version(package) for package in PACKAGES}
    write_json(path, {"stage": stage, **facts, "settings": dict(settings), "versions": versions})


def read_receipt(path: Path, stage: str) -> dict[str, Any]:
    """Facts of a finished stage; StoreError if it has not finished."""
    if not path.is_file():
        raise StoreError(f"no receipt {path}: the stage {stage} has not finished; run snakemake --cores 8 {stage}")
    facts: dict[str, Any] = read_json(path)
    return facts

"""Receipts: the small JSON files that stages write last, atomically. A receipt exists = its stage is complete."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError

PACKAGES = ("conformalsam", "numpy", "zarr", "dask", "torch", "transformers")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """16 hex digits that two mappings share only if they are equal as JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    part.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _without_nan(content: Any) -> Any:
    """JSON knows neither NaN nor infinity: a number that does not exist becomes null."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_receipt(path: Path, stage: str, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write what a finished stage counted and measured, with the settings and versions behind it."""
    versions = {package: version(package) for package in PACKAGES}
    write_json(path, {"stage": stage, **facts, "settings": dict(settings), "versions": versions})


def read_receipt(path: Path, stage: str) -> dict[str, Any]:
    """Facts of a finished stage; StoreError if it has not finished."""
    if not path.is_file():
        raise StoreError(f"no receipt {path}: the stage {stage} has not finished; run snakemake --cores 8 {stage}")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts

"""What was exported of a run, image by image: so that a mask which comes back as it went is not taken for a correction.

Kept beside the label store, for its labels change with the next calibration, and an export may come back long after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.exchange.labels import Label
from pipeline.files import read_json, write_json
from pipeline.folder import Folder


def label_digest(label: Label) -> str:
    """16 hex digits of a label's size and pixels."""
    return hashlib.blake2b(label.tobytes(), digest_size=8, key=repr(label.shape).encode()).hexdigest()


def exported_digests(folder: Path) -> dict[str, list[str]]:
    """Digests of all labels of each image that exports wrote, by id."""
    path = Folder(folder).exported
    digests: dict[str, list[str]] = read_json(path) if path.is_file() else {}
    return digests


def add_exported(folder: Path, digests: Mapping[str, str]) -> None:
    """Remember one more label of each of these images."""
    known = exported_digests(folder)
    for sample_id, digest in digests.items():
        known[sample_id] = sorted({*known.get(sample_id, []), digest})
    write_json(Folder(folder).exported, known)

"""Digests of all exported labels of a run, by image, so that a mask that comes back unchanged is not imported.

They are stored outside the label store, because its labels change with the next calibration, and a mask may come back
after that.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path

from pipeline.exchange.labels import Label
from pipeline.folder import Folder
from pipeline.record import read_record, write_record


def label_digest(label: Label) -> str:
    """Digest of the size and the pixels of a label, 16 hex digits."""
    return hashlib.blake2b(label.tobytes(), digest_size=8, key=repr(label.shape).encode()).hexdigest()


def exported_digests(folder: Path) -> dict[str, list[str]]:
    """Digests of all exported labels of each image, by sample id; RecordError for a damaged file."""
    path = Folder(folder).exported
    if not path.is_file():
        return {}
    again = f"rm {shlex.quote(str(path))}, which also takes masks that come back as they were exported"
    return read_record(path, again)


def add_exported(folder: Path, digests: Mapping[str, str]) -> None:
    """Add the digest of one more exported label of each of these images."""
    stored = exported_digests(folder)
    for sample_id, digest in digests.items():
        stored[sample_id] = sorted({*stored.get(sample_id, []), digest})
    write_record(Folder(folder).exported, stored)

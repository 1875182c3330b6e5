"""Whether a data set is still the one that `prepare` read: its list of files, and their sizes, times and contents.

`prepare` notes the stamp of each file that it reads. A file that has this stamp is not read again; one with another
stamp is, and its digest decides.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.datasets import Sample, SampleIndex
from pipeline.files import Stamp, file_digest, read_json, stamp_of, write_text
from pipeline.settings import DataSettings
from pipeline.sources.samples import find_samples


def write_stamps(path: Path, stamps: Mapping[str, Stamp]) -> None:
    """Write the stamps of files, by their paths below the data root."""
    write_text(path, json.dumps(stamps, separators=(",", ":")) + "\n")


def read_stamps(path: Path) -> dict[str, Stamp]:
    """What `write_stamps` wrote; {} if it is lost or damaged: then every file is read again."""
    try:
        stamps = read_json(path)
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def has_changed(data: DataSettings, index: SampleIndex, stamps: Path, needs_unlabeled: bool = True) -> bool:
    """Whether `prepare` would find other files than it did, or other contents.

    Files whose stamps have changed are read. If all contents are equal, their new stamps are noted.

    stamps:          file that `write_stamps` wrote
    needs_unlabeled: as `find_samples`
    """
    found, problems = find_samples(data, needs_unlabeled)
    if problems or _listing(found) != _listing(index.samples):
        return True
    digests = _digests(index)
    try:
        now = {name: stamp_of(os.stat(os.path.join(index.root, name))) for name in digests}
        known = read_stamps(stamps)
        touched = [name for name, stamp in now.items() if known.get(name) != stamp]
        if not _are_equal(index.root, {name: digests[name] for name in touched}, data.workers):
            return True
    except OSError:
        return True
    if touched:
        with contextlib.suppress(OSError):  # in a folder that cannot be written the files are read again next time
            write_stamps(stamps, now)
    return False


def _listing(samples: Iterable[Sample]) -> list[tuple[str, str, str | None, str]]:
    return [(sample.id, sample.image, sample.mask, sample.split) for sample in samples]


def _digests(index: SampleIndex) -> dict[str, str]:
    """Digest of every image and mask, by its path below the data root."""
    images = {sample.image: sample.image_digest for sample in index.samples}
    return images | {sample.mask: sample.mask_digest for sample in index.samples if sample.mask is not None}


def _are_equal(root: Path, digests: Mapping[str, str], workers: int | None) -> bool:
    """Whether files have these digests; stops at the first that has not."""
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        return all(
            found == digests[name]
            for name, found in zip(digests, pool.map(lambda name: file_digest(root / name), digests), strict=True)
        )
    finally:
        pool.shutdown(cancel_futures=True)

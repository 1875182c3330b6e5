"""Whether a data set has changed since `prepare`: its list of files, and their sizes, times and contents.

`prepare` records the stamp of each file that it reads. A file whose stamp is unchanged is not read again. A file with
another stamp is read, and its digest is compared.
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
    """Write the stamps of files. stamps: path relative to the data root -> stamp"""
    write_text(path, json.dumps(stamps, separators=(",", ":")) + "\n")


def read_stamps(path: Path) -> dict[str, Stamp]:
    """Stamps by path relative to the data root; {} if the file is missing or damaged, so that every file is read."""
    try:
        stamps = read_json(path)
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def has_changed(data: DataSettings, index: SampleIndex, stamps: Path, needs_unlabeled: bool = True) -> bool:
    """Whether the list of files, or the content of one, differs from what `prepare` read.

    Files whose stamps have changed are read. If all contents are equal, the new stamps are written.

    stamps:          file that `write_stamps` wrote
    needs_unlabeled: as `find_samples`
    """
    samples, problems = find_samples(data, needs_unlabeled)
    if problems or _listing(samples) != _listing(index.whole.samples):
        return True
    digests = _digests(index)
    try:
        current = {name: stamp_of(os.stat(os.path.join(index.root, name))) for name in digests}
        recorded = read_stamps(stamps)
        changed = [name for name, stamp in current.items() if recorded.get(name) != stamp]
        if not _are_equal(index.root, {name: digests[name] for name in changed}, data.workers):
            return True
    except OSError:
        return True
    if changed:
        with contextlib.suppress(OSError):  # if the folder cannot be written, the files are read again next time
            write_stamps(stamps, current)
    return False


def _listing(samples: Iterable[Sample]) -> list[tuple[str, str, str | None, str, str]]:
    return [(sample.id, sample.image, sample.mask, sample.split, sample.group) for sample in samples]


def _digests(index: SampleIndex) -> dict[str, str]:
    """Digest of every image and mask, by its path below the data root; also of tiles and of the images they are of."""
    samples = *index.samples, *index.cut
    images = {sample.image: sample.image_digest for sample in samples}
    return images | {sample.mask: sample.mask_digest for sample in samples if sample.mask is not None}


def _are_equal(root: Path, digests: Mapping[str, str], workers: int | None) -> bool:
    """Whether files have these digests; stops at the first that differs. digests: path relative to root -> digest"""
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        return all(
            digest == digests[name]
            for name, digest in zip(digests, pool.map(lambda name: file_digest(root / name), digests), strict=True)
        )
    finally:
        pool.shutdown(cancel_futures=True)

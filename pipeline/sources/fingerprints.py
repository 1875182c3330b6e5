"""Fingerprints of the images and masks that the result of a stage depends on, from the digests in samples.json."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.datasets import Sample, load_samples
from pipeline.receipt import fingerprint

READ_VAL = ("evaluate", "report")  # stages that read val images; the weights of a student do not depend on them


def sources_fingerprint(path: Path, stage: str) -> str | None:
    """Fingerprint of the images and masks that the result of a stage after prepare depends on.

    path:    samples.json; it is read again only if it changes
    returns: 16 hex digits, or None if samples.json does not exist
    raises:  RecordError if samples.json is damaged
    """
    if not path.is_file():
        return None
    status = path.stat()
    of_images, of_training, of_all = _fingerprints(path, status.st_mtime_ns, status.st_size)
    return of_images if stage == "annotate" else of_all if stage in READ_VAL else of_training


@lru_cache(maxsize=4)
def _fingerprints(path: Path, modified: int, size: int) -> tuple[str, str, str]:
    """Fingerprints of the images to annotate, without masks; of labeled and unlabeled samples; of all samples."""
    index = load_samples(path)
    training, everything = index.of("labeled", "unlabeled"), index.of("labeled", "unlabeled", "val")
    images = sorted([sample.id, sample.image_digest] for sample in training)
    return fingerprint({"images": images}), _of_samples(training), _of_samples(everything)


def _of_samples(samples: list[Sample]) -> str:
    rows: list[Any] = [
        [one.id, one.split, one.image_digest, one.mask_digest, *([one.group] if one.group else [])] for one in samples
    ]
    return fingerprint({"samples": rows})

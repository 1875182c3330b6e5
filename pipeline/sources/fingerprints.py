"""Fingerprints of the images and masks that the result of a stage depends on, from the digests in samples.json."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.datasets import Sample, load_samples
from pipeline.receipt import fingerprint

OF_ALL = ("evaluate", "report")  # stages that look at val images; the weights of a student do not depend on those


def sources_fingerprint(path: Path, stage: str) -> str | None:
    """Fingerprint of the images and masks behind a stage that runs after prepare; None without samples.json.

    path: samples.json, which is read once as long as it does not change
    """
    if not path.is_file():
        return None
    found = path.stat()
    of_images, of_training, of_all = _fingerprints(path, found.st_mtime_ns, found.st_size)
    return of_images if stage == "annotate" else of_all if stage in OF_ALL else of_training


@lru_cache(maxsize=4)
def _fingerprints(path: Path, modified: int, size: int) -> tuple[str, str, str]:
    """Of the images to be annotated, whichever have masks; of all that labels and students are made from; of all."""
    index = load_samples(path)
    training, everything = index.of("labeled", "unlabeled"), index.of("labeled", "unlabeled", "val")
    images = sorted([sample.id, sample.image_digest] for sample in training)
    return fingerprint({"images": images}), _of_samples(training), _of_samples(everything)


def _of_samples(samples: list[Sample]) -> str:
    rows: list[Any] = [[one.id, one.split, one.image_digest, one.mask_digest] for one in samples]
    return fingerprint({"samples": rows})

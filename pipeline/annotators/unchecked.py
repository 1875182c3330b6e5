"""Maps that are made before there is a store: what the annotator returns is checked first, and then kept."""

from __future__ import annotations

import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotators.class_check import class_doubts, live_maps, refuse_wrong_classes
from pipeline.annotators.first_maps import first_maps
from pipeline.annotators.work import Work
from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.progress import Progress
from pipeline.store import decode_chunk

log = logging.getLogger(__name__)

CHECK = "check"  # the claim of the process that compares maps with masks
MOST_BYTES = 256_000_000  # of the rows that are kept; further images are annotated once more


class Unchecked:
    """Maps of the first image, and of labeled images whose masks they are compared with: cached, or made now."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.made: dict[str, bytes] = {}
        self.live = live_maps(work.index, work.annotator, work.settings.data)

    @cached_property
    def _first(self) -> tuple[list[int], int]:
        """Shape K, h, w of the maps of an image, and the bytes of a row: of a cached one, or of the first image.

        raises: as `first_maps`
        """
        row, facts = next(self.work.cache.rows(), None), self.work.cache.facts()
        if row is not None and facts is not None:
            return facts["maps"], row.stat().st_size
        work = self.work
        first = first_maps(work.index, work.samples, work.annotator, work.settings.data)
        content = work.encoded(first.maps)
        digest = next(row.image_digest for row in work.rows if row.id == first.id)
        self.made[digest] = content
        return list(work.sized(first.maps).shape), len(content)

    @property
    def shape(self) -> list[int]:
        """K, h, w of the maps of an image, as they are stored; raises as `first_maps`."""
        return self._first[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of the maps of an image, as they are stored; raises as `first_maps`."""
        return self._first[1]

    def maps_of(self, sample: Sample) -> npt.NDArray[Any] | None:
        """Maps of an image, [K, h, w]; None if it cannot be read or annotated. raises: as `first_maps`"""
        shape, digest = self.shape, self.work.digest(sample)
        if digest not in self.made:
            self.work.cache.claim_or_wait(digest)
        content = self.made.get(digest) or self.work.cache.read(digest)
        if content is not None:
            maps: npt.NDArray[Any] = decode_chunk(content, (1, *shape), np.dtype(self.work.dtype))[0]
            return maps
        live = self.live(sample)
        if live is not None and list(self.work.sized(live).shape) == shape:
            content = self.work.encoded(live)
            if sum(map(len, self.made.values())) + len(content) <= MOST_BYTES:
                self.made[digest] = content
        return live

    def add_to_cache(self) -> None:
        """Add what was made to the cache, when it has been checked."""
        self.work.cache.write_facts(self.work.facts(self.shape))
        for digest, content in self.made.items():
            self.work.cache.add(digest, content)


def check_first(work: Work, unchecked: Unchecked, path: Path) -> None:
    """Check the annotator and the disk before its first maps are added to the cache.

    path:   of the store or receipt that is written afterwards
    raises: AnnotatorError for a wrong class map, and as `first_maps`; StoreError if the disk is too small
    """
    with work.cache as cache:
        cache.fetch(work.digest(one.sample) for one in work.labeled)
        cache.claim_or_wait(CHECK)  # another process may annotate the same images to check their classes
        _check_classes(work, unchecked)
        _check_disk(unchecked.row_bytes, sum(not cache.has(row.image_digest) for row in work.rows), path)
        unchecked.add_to_cache()


def _check_classes(work: Work, unchecked: Unchecked) -> None:
    """Compare the maps of labeled images with their masks; AnnotatorError for a wrong class map."""
    progress = Progress(log, "annotate: comparing maps with masks", len(work.labeled), "labeled images")

    def with_progress(sample: Sample) -> npt.NDArray[Any] | None:
        maps = unchecked.maps_of(sample)
        progress.advance()
        return maps

    doubts = class_doubts(work.labeled, with_progress, work.annotator, work.settings.data)
    refuse_wrong_classes(doubts, work.annotator, work.settings)
    for doubt in doubts:
        log.warning("annotate: %s", doubt.text)


def _check_disk(row_bytes: int, num_images: int, path: Path) -> None:
    """Log the size of the maps to make, estimated from those of one image; StoreError if the disk is too small."""
    if not num_images:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = row_bytes * num_images / 1e9, shutil.disk_usage(path.parent).free / 1e9
    log.info(
        "annotate: about %.2f GB for %d images (%.0f kB each); %.0f GB free",
        needed,
        num_images,
        row_bytes / 1e3,
        free,
    )
    if needed > free:
        raise StoreError(
            f"{path} needs about {needed:.1f} GB, but {free:.1f} GB are free; free some, set `results` to a larger "
            "disk, or choose a smaller data.grid or annotate.resolution"
        )

"""Maps that are made before there is a store: what the annotator returns is checked first, and then kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotators.class_check import live_maps
from pipeline.annotators.first_maps import first_maps
from pipeline.annotators.work import Work
from pipeline.datasets import Sample
from pipeline.store import decode_chunk

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

    def add_to_cache(self, facts: Mapping[str, Any]) -> None:
        """Add what was made to the cache, when it has been checked. facts: of the store"""
        self.work.cache.write_facts(facts)
        for digest, content in self.made.items():
            self.work.cache.add(digest, content)

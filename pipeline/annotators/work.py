"""What `annotate` does: which images, by which annotator, and where the maps are shared with other runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.annotators.class_check import Labeled, choose_labeled
from pipeline.annotators.contract import Annotator, Maps, stored_dtype
from pipeline.datasets import Sample, SampleIndex
from pipeline.receipt import fingerprint
from pipeline.resample import resize_bilinear
from pipeline.settings import Settings
from pipeline.store import SMALL, MapCache, encode_chunk, encode_maps

CACHE_VERSION = 5  # raise it when the same annotator and image would be cached differently


@dataclass(frozen=True)
class Work:
    """Images of a run and an annotator.

    samples: those to annotate: the labeled and unlabeled ones in the order of the store, or a part of them
    """

    settings: Settings
    index: SampleIndex
    samples: Sequence[Sample]
    annotator: Annotator

    @cached_property
    def rows(self) -> Sequence[Sample]:
        """The samples as the store lists them. Their digests change whenever the maps of the image could change.

        For most annotators this is the digest of the image; for one with `image_fingerprint`, it includes that.
        """
        return [replace(sample, image_digest=self.digest(sample)) for sample in self.samples]

    def digest(self, sample: Sample) -> str:
        """16 hex digits that name the row of an image in the cache."""
        if not hasattr(self.annotator, "image_fingerprint"):
            return sample.image_digest
        return fingerprint({"image": sample.image_digest, "maps": self.annotator.image_fingerprint(sample.id)})

    @cached_property
    def method(self) -> str:
        """Fingerprint of everything that the maps of an image depend on besides the image. Masks are not included."""
        data, chosen = self.settings.data, self.settings.annotate
        return fingerprint(
            {
                "version": CACHE_VERSION,
                "annotator": self.annotator.fingerprint,
                "prompts": data.class_prompts,
                "classes": data.class_names,
                "grid": data.grid,
                "resolution": chosen.resolution,
                "dtype": self.dtype,
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of everything that the maps of the store depend on."""
        images = [[sample.id, sample.image_digest] for sample in self.rows]
        return fingerprint({"method": self.method, "images": images})

    def facts(self, shape: Sequence[int]) -> dict[str, Any]:
        """Facts that hold for all images of the annotator. shape: K, h, w of the stored maps of an image"""
        data = self.settings.data
        return {
            "method": self.method,
            "annotator": self.annotator.name,
            "space": self.annotator.space,
            "grid": data.grid,
            "class_names": data.class_names,
            "class_prompts": data.class_prompts,
            "maps": list(shape),
            "dtype": self.dtype,
        }

    @cached_property
    def labeled(self) -> Sequence[Labeled]:
        """Labeled images of the run whose maps are compared with their masks."""
        data, index = self.settings.data, self.index
        return choose_labeled(index.of("labeled"), lambda one: index.mask(one, data), self.annotator, data)

    @cached_property
    def cache(self) -> MapCache:
        """The maps of this annotator that runs share."""
        return MapCache.of(self.settings.cache_folder, self.settings.cache_url, self.annotator.name, self.method)

    @property
    def dtype(self) -> str:
        """dtype in which the maps are stored."""
        return stored_dtype(self.annotator, self.settings.annotate)

    def sized(self, maps: Maps) -> Maps:
        """Maps of an image, float32 [K, h, w], at the resolution at which they are stored."""
        is_grid = self.settings.annotate.resolution == "grid"
        return resize_bilinear(maps, self.settings.data.grid) if is_grid else maps

    def encoded(self, maps: Maps) -> bytes:
        """Maps of an image, float32 [K, h, w], as the bytes of a row."""
        return encode_chunk(encode_maps(self.sized(maps), self.dtype)[np.newaxis], SMALL)

"""Puts images beside their labels: linked, copied, or written as PNG where programs would read them differently."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.datasets import Sample, SampleIndex
from pipeline.images import PHOTOGRAPH, UPRIGHT, Header, header_of, read_header

PNG = ".png"
SUFFIXES = {"JPEG": ".jpg", "PNG": PNG}
"""Suffixes of the formats that all programs read alike."""


@dataclass(frozen=True)
class ImageFiles:
    """How images are put into an export.

    is_copied: images are copied; otherwise they are symbolic links
    formats:   formats of images that are not written again, of those in SUFFIXES
    modes:     Pillow's modes of images that are not written again
    """

    index: SampleIndex
    is_copied: bool = False
    formats: tuple[str, ...] = tuple(SUFFIXES)
    modes: tuple[str, ...] = ("RGB", "L")

    def common_suffix(self, samples: Iterable[Sample]) -> str:
        """Suffix that all images get: that of their format if they have one in common, otherwise .png."""
        found = {self.suffix(sample) for sample in samples}
        return found.pop() if len(found) == 1 else PNG

    def put(self, sample: Sample, path: Path) -> None:
        """Put an image at a path. An image of another format than its suffix, turned by EXIF, with 16 bits, a palette,
        alpha or CMYK is written as PNG with 8 bits of RGB, upright, because programs read it in different ways.

        path:   in an existing folder, with a suffix of `common_suffix` or `suffix`
        raises: DatasetError if the file is not the one that prepare read
        """
        content, source = self.index.image_bytes(sample), self.index.root / sample.image
        if self._kept_suffix(header_of(content, source, PHOTOGRAPH)) != path.suffix:
            Image.fromarray(self.index.image(sample)).save(path, format="PNG", compress_level=1)
        elif self.is_copied:
            path.write_bytes(content)
        else:
            path.symlink_to(os.path.abspath(source))

    def suffix(self, sample: Sample) -> str:
        """Suffix that an image gets on its own."""
        return self._kept_suffix(read_header(self.index.root / sample.image, PHOTOGRAPH)) or PNG

    def _kept_suffix(self, header: Header) -> str | None:
        """Suffix of an image that is not written again; None if it is."""
        is_plain = header.orientation == UPRIGHT and header.mode in self.modes and not header.is_deep
        return SUFFIXES[header.format] if is_plain and header.format in self.formats else None

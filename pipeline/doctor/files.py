"""Findings about files: unreadable files, image modes, sizes of masks, unused masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.doctor.findings import Finding
from pipeline.doctor.survey import UPRIGHT, SampleFacts, Survey
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_with
from pipeline.settings import DataSettings
from pipeline.sources.layouts import Tree

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF orientations


def file_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """Findings about files, independent of their content."""
    findings = [
        _unreadable(survey.samples),
        *_modes(survey.samples),
        _turned(survey.samples),
        *_mask_sizes(survey.samples),
        *unused_masks(data),
    ]
    return [finding for finding in findings if finding.where]


def _unreadable(samples: Sequence[SampleFacts]) -> Finding:
    where = tuple(problem for facts in samples for problem in facts.problems)
    return Finding("error", _counted("file", where, "cannot be read"), where, "replace or remove them")


def _modes(samples: Iterable[SampleFacts]) -> Iterator[Finding]:
    by_mode: dict[str, list[str]] = {}
    for facts in samples:
        if facts.image is not None:
            by_mode.setdefault(facts.image.mode, []).append(facts.sample.image)
    deep, transparent, cmyk = (
        tuple(name for mode in modes for name in by_mode.get(mode, []))
        for modes in (DEEP_MODES, TRANSPARENT_MODES, ("CMYK",))
    )
    what = "with more than 8 bits per channel; values above 255 are cut off, so they become nearly white or black"
    yield Finding("error", _counted("image", deep, what), deep, "scale them to 8 bits and save them again")
    what = _counted("image", transparent, "with transparency, which is ignored: transparent pixels become visible")
    yield Finding("note", what, transparent)
    fix = "convert them to RGB with their colour profile"
    yield Finding("warning", _counted("image", cmyk, "in CMYK colours"), cmyk, fix)


def _turned(samples: Iterable[SampleFacts]) -> Finding:
    turned = tuple(
        facts.sample.image for facts in samples if facts.image is not None and facts.image.orientation != UPRIGHT
    )
    what = "stored rotated or mirrored; viewers apply the EXIF orientation, but here pixels are read as they are stored"
    fix = "store the pixels upright (e.g. mogrify -auto-orient), and check that the masks fit them"
    return Finding("warning", _counted("image", turned, what), turned, fix)


def _mask_sizes(samples: Iterable[SampleFacts]) -> Iterator[Finding]:
    turned: list[str] = []
    other: list[str] = []
    for facts in samples:
        if facts.image is None or facts.mask is None or facts.image.size == facts.mask.size:
            continue
        text = f"{facts.sample.mask} ({_size(facts.mask.size)}, image {_size(facts.image.size)})"
        is_turned = facts.image.orientation in ON_THEIR_SIDE and facts.image.size == facts.mask.size[::-1]
        (turned if is_turned else other).append(text)
    what = "with the size of the upright image, but the image is stored rotated (EXIF orientation)"
    fix = "store the pixels upright (e.g. mogrify -auto-orient)"
    yield Finding("error", _counted("mask", turned, what), tuple(turned), fix)
    what = "with another size than the image (height x width)"
    fix = "resize the masks to the size of the image by nearest neighbour, without smoothing"
    yield Finding("error", _counted("mask", other, what), tuple(other), fix)


def unused_masks(data: DataSettings) -> Iterator[Finding]:
    """Files in the mask folder that belong to no image, or whose format is not read as a mask."""
    tree = Tree(data)
    if tree.layout.mask_ending is not None or not tree.masks.is_dir():
        return
    stems = set(tree.scan([]))
    pictures = files_with((*IMAGE_SUFFIXES, *MASK_SUFFIXES), tree.masks.glob("*"))
    lossy = tuple(_named(tree.masks, p) for p in pictures if p.suffix.lower() not in MASK_SUFFIXES)
    unused = tuple(_named(tree.masks, p) for p in pictures if p.suffix.lower() in MASK_SUFFIXES and p.stem not in stems)
    what = "in a format that is not read as a mask, because JPEG and WebP change values"
    fix = "export them again as PNG from the original; converting these files does not restore the values"
    yield Finding("warning", _counted("file", lossy, what), lossy, fix)
    what = "without an image of the same stem, so they are not used"
    fix = "name them as their images, or set data.mask_ending, e.g. _mask.png"
    yield Finding("warning", _counted("mask", unused, what), unused, fix)


def _named(folder: Path, path: Path) -> str:
    return f"{folder.name}/{path.name}"


def _counted(noun: str, files: Sequence[str], claim: str) -> str:
    return f"{len(files)} {noun}{'' if len(files) == 1 else 's'} {claim}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

"""Findings about files: unreadable files, image modes, sizes of masks, unused masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.doctor.findings import Finding, from_message
from pipeline.doctor.survey import SampleFacts, Survey
from pipeline.files import MASK_SUFFIXES, files_with, image_id
from pipeline.images import ON_ITS_SIDE, UPRIGHT
from pipeline.settings import DataSettings
from pipeline.sources.layouts import Tree

TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def file_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """Findings about files, independent of their content."""
    unreadable = [from_message(problem) for facts in survey.samples for problem in facts.problems]
    findings = [
        *_modes(survey.samples),
        _turned(survey.samples),
        *_mask_sizes(survey.samples),
        *unused_masks(data),
    ]
    return unreadable + [finding for finding in findings if finding.where]


def _modes(samples: Iterable[SampleFacts]) -> Iterator[Finding]:
    by_mode: dict[str, list[str]] = {}
    for facts in samples:
        if facts.image is not None:
            by_mode.setdefault(facts.image.header.mode, []).append(facts.sample.image)
    transparent, cmyk = (
        tuple(name for mode in modes for name in by_mode.get(mode, [])) for modes in (TRANSPARENT_MODES, ("CMYK",))
    )
    what = _counted("image", transparent, "with transparency, which is ignored: transparent pixels become visible")
    yield Finding("note", what, transparent)
    fix = "convert them to RGB with their colour profile"
    yield Finding("warning", _counted("image", cmyk, "in CMYK colours"), cmyk, fix)


def _turned(samples: Iterable[SampleFacts]) -> Finding:
    turned = tuple(
        facts.sample.image
        for facts in samples
        if facts.image is not None and facts.mask is not None and facts.image.header.orientation != UPRIGHT
    )
    what = "stored rotated or mirrored, and read upright by their EXIF orientation"
    fix = "check that the masks fit the upright images"
    return Finding("warning", _counted("image", turned, what), turned, fix)


def _mask_sizes(samples: Iterable[SampleFacts]) -> Iterator[Finding]:
    turned: list[str] = []
    other: list[str] = []
    for facts in samples:
        if facts.image is None or facts.mask is None or facts.image.header.size == facts.mask.size:
            continue
        text = f"{facts.sample.mask} ({_size(facts.mask.size)}, image {_size(facts.image.header.size)})"
        header = facts.image.header
        is_turned = header.orientation in ON_ITS_SIDE and header.size == facts.mask.size[::-1]
        (turned if is_turned else other).append(text)
    what = "with the size of the image as it is stored, but the image is read upright (EXIF orientation)"
    fix = "turn the masks as the images"
    yield Finding("error", _counted("mask", turned, what), tuple(turned), fix)
    what = "with another size than the image (height x width)"
    fix = "resize the masks to the size of the image by nearest neighbour, without smoothing"
    yield Finding("error", _counted("mask", other, what), tuple(other), fix)


def unused_masks(data: DataSettings) -> Iterator[Finding]:
    """Masks that belong to no image."""
    tree = Tree(data)
    if tree.layout.mask_ending is not None or not tree.masks.is_dir():
        return
    ids = set(tree.scan([]))
    masks = files_with(MASK_SUFFIXES, tree.masks.glob("*"))
    unused = tuple(f"{tree.masks.name}/{path.name}" for path in masks if image_id(path) not in ids)
    what = "without an image of the same stem, so they are not used"
    fix = "name them as their images, or set data.mask_ending, e.g. _mask.png"
    yield Finding("warning", _counted("mask", unused, what), unused, fix)


def _counted(noun: str, files: Sequence[str], claim: str) -> str:
    return f"{len(files)} {noun}{'' if len(files) == 1 else 's'} {claim}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

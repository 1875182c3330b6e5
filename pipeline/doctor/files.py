"""Findings about files: unreadable ones, image modes, sizes of masks, masks that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.doctor.findings import Finding
from pipeline.doctor.survey import UPRIGHT, Look, Survey
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_with
from pipeline.settings import DataSettings
from pipeline.sources.layouts import Tree

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF orientations


def file_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """What is wrong with files, whatever they show."""
    found = [
        _unreadable(survey.looks),
        *_modes(survey.looks),
        _turned(survey.looks),
        *_mask_sizes(survey.looks),
        *unused_masks(data),
    ]
    return [finding for finding in found if finding.where]


def _unreadable(looks: Sequence[Look]) -> Finding:
    where = tuple(problem for look in looks for problem in look.problems)
    return Finding("error", _counted("file", where, "cannot be read"), where, "replace or remove them")


def _modes(looks: Iterable[Look]) -> Iterator[Finding]:
    by_mode: dict[str, list[str]] = {}
    for look in looks:
        if look.image is not None:
            by_mode.setdefault(look.image.mode, []).append(look.sample.image)
    deep, transparent, cmyk = (
        tuple(name for mode in modes for name in by_mode.get(mode, []))
        for modes in (DEEP_MODES, TRANSPARENT_MODES, ("CMYK",))
    )
    what = "more than 8 bits a channel, which are cut off at 255: nearly white or black pictures"
    yield Finding("error", _counted("image", deep, "with " + what), deep, "scale them to 8 bits and save them again")
    what = _counted("image", transparent, "with transparency, which is dropped: what it hides is seen")
    yield Finding("note", what, transparent)
    fix = "convert them to RGB with their colour profile"
    yield Finding("warning", _counted("image", cmyk, "in the colours of print (CMYK)"), cmyk, fix)


def _turned(looks: Iterable[Look]) -> Finding:
    turned = tuple(look.sample.image for look in looks if look.image is not None and look.image.orientation != UPRIGHT)
    what = "stored turned or mirrored, with a mark (EXIF) that viewers follow; pixels are read as they are stored"
    fix = "store the pixels upright (e.g. mogrify -auto-orient), and see that the masks fit them"
    return Finding("warning", _counted("image", turned, what), turned, fix)


def _mask_sizes(looks: Iterable[Look]) -> Iterator[Finding]:
    turned: list[str] = []
    other: list[str] = []
    for look in looks:
        if look.image is None or look.mask is None or look.image.size == look.mask.size:
            continue
        text = f"{look.sample.mask} ({_size(look.mask.size)}, image {_size(look.image.size)})"
        is_turned = look.image.orientation in ON_THEIR_SIDE and look.image.size == look.mask.size[::-1]
        (turned if is_turned else other).append(text)
    what = "of the upright image, whose pixels are stored on their side (EXIF)"
    fix = "store the pixels upright (e.g. mogrify -auto-orient)"
    yield Finding("error", _counted("mask", turned, what), tuple(turned), fix)
    what = "of another size than the image (height x width)"
    fix = "make them equal: masks by nearest neighbour, never smoothed"
    yield Finding("error", _counted("mask", other, what), tuple(other), fix)


def unused_masks(data: DataSettings) -> Iterator[Finding]:
    """Files in the mask folder that belong to no image, or have a format that is not read as a mask."""
    tree = Tree(data)
    if tree.layout.mask_ending is not None or not tree.masks.is_dir():
        return
    stems = set(tree.scan([]))
    pictures = files_with((*IMAGE_SUFFIXES, *MASK_SUFFIXES), tree.masks.glob("*"))
    strange = tuple(_named(tree.masks, p) for p in pictures if p.suffix.lower() not in MASK_SUFFIXES)
    alone = tuple(_named(tree.masks, p) for p in pictures if p.suffix.lower() in MASK_SUFFIXES and p.stem not in stems)
    what = "in a format that is not read as a mask: JPEG and WebP change values, and so classes"
    fix = "draw or export them again as PNG; converting does not bring the values back"
    yield Finding("warning", _counted("file", strange, what), strange, fix)
    what = "without an image of that stem, so nobody reads them"
    fix = "name them as their images, or set data.mask_ending, e.g. _mask.png"
    yield Finding("warning", _counted("mask", alone, what), alone, fix)


def _named(folder: Path, path: Path) -> str:
    return f"{folder.name}/{path.name}"


def _counted(noun: str, places: Sequence[str], claim: str) -> str:
    return f"{len(places)} {noun}{'' if len(places) == 1 else 's'} {claim}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

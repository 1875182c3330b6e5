"""Files in the image and mask folders that a run does not read, although their names look as if it should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_in
from pipeline.settings import DataSettings
from pipeline.sources.image_checks import Doubt, counted
from pipeline.sources.layouts import Tree

OTHER_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".jfif", ".jpe", ".psd", ".svg", ".pdf", ".ppm", ".pgm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
"""Endings of pictures that are not read."""


def unread_files(data: DataSettings) -> list[Doubt]:
    """Images as in `unread_images`, and masks that belong to no image."""
    return unread_images(data) + [doubt for doubt in _unused_masks(Tree(data)) if doubt.where]


def unread_images(data: DataSettings) -> list[Doubt]:
    """Images in sub-folders, and of other formats."""
    tree = Tree(data)
    return [doubt for doubt in (*_images_below(tree), *_other_images(tree)) if doubt.where]


def _images_below(tree: Tree) -> Iterator[Doubt]:
    if tree.layout.train_folder is not None or tree.has_subfolders:
        return
    number: Counter[str] = Counter()
    for path in tree.pictures(IMAGE_SUFFIXES, below=True):
        if path.parent != tree.images:
            number[str(path.parent.relative_to(tree.images))] += 1
    folders = tuple(f"{folder} ({count})" for folder, count in sorted(number.items()))
    yield Doubt(
        f"{number.total()} images in sub-folders of {tree.images} are not read",
        folders,
        "to read them, set data.subfolders: true",
    )


def _other_images(tree: Tree) -> Iterator[Doubt]:
    files = tuple(path.name for path in tree.pictures(OTHER_SUFFIXES, below=tree.has_subfolders))
    yield Doubt(
        counted("picture", files, f"in {tree.images} of a format that is not read"),
        files,
        "to read them, save them as PNG or JPEG",
    )


def _unused_masks(tree: Tree) -> Iterator[Doubt]:
    if tree.layout.mask_ending is not None or not tree.masks.is_dir():
        return
    used = {entry.mask for entry in tree.scan([]).values()}
    masks = files_in(tree.masks, MASK_SUFFIXES, below=tree.has_subfolders)
    unused = tuple(str(path.relative_to(tree.masks.parent)) for path in masks if path not in used)
    yield Doubt(
        counted("mask", unused, "without an image of the same stem, so they are not used"),
        unused,
        "name them as their images, or set data.mask_ending, e.g. _mask.png",
    )

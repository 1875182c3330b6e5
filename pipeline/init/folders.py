"""Lists the files of an image folder and a mask folder, and matches masks with images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DatasetError, ImageFileError
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_in, image_id, normal
from pipeline.images import PHOTOGRAPH, read_header
from pipeline.names import safe_name
from pipeline.sources.layouts import UNREAD_SUFFIXES, by_id, unread

NUM_SHOWN = 3
GENERIC_NAMES = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "frames", "data")


Sizes = npt.NDArray[np.int64]
"""int64 [N, 2], heights and widths of the images whose header can be read."""


class ImagesAndMasks(NamedTuple):
    """The files of an image folder and a mask folder."""

    images: dict[str, Path]
    """All images, by stem."""
    masks: dict[str, Path]
    """Masks of these images, by the stem of the image."""
    without_image: list[Path]
    """Masks that belong to no image."""
    ending: str | None
    """End of a mask's file name after the stem of its image, e.g. `_mask.png`; None if the stems are the same."""
    sizes: Sizes


def find_files(images: Path, masks: Path, below: bool = False) -> ImagesAndMasks:
    """Match the files of two folders by name. Their pixels are not read.

    below:  whether sub-folders are read too (`data.subfolders`)
    raises: DatasetError for folders that are missing, empty or the same, two files with the same stem, and masks that
            belong to no image
    """
    _check_folder(masks, "--masks")
    if images.resolve() == masks.resolve():
        raise DatasetError(f"images and masks are both in {images}; move the masks into a folder of their own")
    image_of_stem, sizes = images_by_id(images, below)
    problems: list[str] = []
    files = _pictures(masks, MASK_SUFFIXES, "mask", below)
    ending = None if any(image_id(path) in image_of_stem for path in files) else common_ending(files, image_of_stem)
    mask_of_stem = by_id(files, problems) if ending is None else _by_ending(files, ending)
    if problems:
        raise DatasetError("\n  ".join([f"some files in {masks} have the same name:", *problems]))
    matched = {stem: path for stem, path in mask_of_stem.items() if stem in image_of_stem}
    if not matched:
        first = next(iter(image_of_stem.values()))
        raise DatasetError(
            f"no mask in {masks} has the name of an image in {images}: the first mask is {files[0].name}, the first "
            f"image is {first.name}; give each mask the name of its image"
        )
    without_image = sorted(set(files) - set(matched.values()))
    return ImagesAndMasks(image_of_stem, matched, without_image, ending, sizes)


def images_by_id(folder: Path, below: bool) -> tuple[dict[str, Path], Sizes]:
    """The images of a folder by stem, and their sizes; raises DatasetError as `find_files`."""
    _check_folder(folder, "IMAGES")
    problems: list[str] = []
    images = by_id(_pictures(folder, IMAGE_SUFFIXES, "image", below), problems)
    if problems:
        raise DatasetError("\n  ".join([f"some files in {folder} have the same name:", *problems]))
    return images, image_sizes(list(images.values()))


def _check_folder(folder: Path, argument: str) -> None:
    if not folder.is_dir():
        raise DatasetError(f"{argument} is {folder}, which is not a folder; correct {argument}")


def _pictures(folder: Path, suffixes: Sequence[str], kind: str, below: bool) -> list[Path]:
    files = files_in(folder, suffixes, below)
    if not files:
        others = files_in(folder, UNREAD_SUFFIXES, below) if kind == "mask" else []
        if others:
            raise DatasetError(unread(others))
        deeper = {path.parent for path in files_in(folder, suffixes, below=True)}
        hint = f"; use {min(deeper)}, which contains some" if deeper else f"; use a folder with {kind}s"
        raise DatasetError(f"{folder} itself contains no {kind} ({', '.join(suffixes)}){hint}")
    return files


def common_ending(files: Sequence[Path], images: Mapping[str, Path]) -> str | None:
    """The most common end of mask names after an image's stem: `a_mask.png` with an image `a` gives `_mask.png`."""
    endings: Counter[str] = Counter()
    for path in files:
        starts = (image_id(path)[:length] for length in range(len(image_id(path)), 0, -1))
        stem = next((start for start in starts if start in images), None)
        if stem is not None:
            endings[normal(path.name)[len(stem) :]] += 1
    return endings.most_common(1)[0][0] if endings else None


def _by_ending(files: Sequence[Path], ending: str) -> dict[str, Path]:
    names = {normal(path.name): path for path in files}
    return {name.removesuffix(ending): path for name, path in names.items() if name.endswith(ending)}


def image_sizes(paths: Sequence[Path]) -> Sizes:
    """int64 [N, 2], heights and widths from the files' headers. Unreadable files are left out; prepare lists them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = [size for size in pool.map(_header_size, paths) if size is not None]
    return np.array(sizes, np.int64).reshape(-1, 2)


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        return read_header(path, PHOTOGRAPH).size
    except ImageFileError:
        return None


def data_paths(images: Path, masks: Path) -> dict[str, str]:
    """Settings `root`, the nearest folder that contains both, and `images` and `masks` relative to it.

    The root is relative to the working folder if it is below it.
    """
    here, folders = Path.cwd(), [images.absolute(), masks.absolute()]
    root = Path(os.path.commonpath([folder.parent for folder in folders]))
    if root == root.parent:  # the folders have only / in common
        return {"root": _shown(folders[0].parent, here), "images": folders[0].name, "masks": str(folders[1])}
    below = [os.path.relpath(folder, root) for folder in folders]
    return {"root": _shown(root, here), "images": below[0], "masks": below[1]}


def _shown(folder: Path, here: Path) -> str:
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def run_name(images: Path) -> str:
    """Safe name like that of the image folder, or of the first parent with a specific name."""
    folder = images.absolute()
    specific = next((f for f in (folder, *folder.parents) if f.name and f.name.lower() not in GENERIC_NAMES), folder)
    return safe_name(specific.name)


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more

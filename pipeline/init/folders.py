"""Lists the files of an image folder and a mask folder, and matches masks with images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DatasetError, ImageFileError
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_in, image_id, normal
from pipeline.images import PHOTOGRAPH, read_header
from pipeline.names import safe_name
from pipeline.sources.endings import common_ending, ending_of
from pipeline.sources.layouts import UNREAD_SUFFIXES, by_id, naming, unread

NUM_SHOWN = 3
GENERIC_NAMES = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "frames", "data")
OTHERWISE = {"image": "a folder with images", "mask": "a folder with masks, or annotations, see docs/data.md"}
OF_MASKS = re.compile(r"mask|label|seg|gt|annot|truth", re.IGNORECASE)
"""What the end of a mask's file name contains if it is beside its image."""

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


def find_files(images: Path, masks: Path, below: bool = False, ending: str | None = None) -> ImagesAndMasks:
    """Match the files of two folders by name. Their pixels are not read.

    The folders may be the same: masks are then the files whose names end like a mask's, e.g. in `_mask.png`.

    below:  whether sub-folders are read too (`data.subfolders`)
    ending: end of a mask's file name after the stem of its image (`data.mask_ending`); default: the most common one
    raises: DatasetError for folders that are missing or empty, two files with the same stem, and masks of no image
    """
    _check_folder(masks, "--masks")
    if images.resolve() == masks.resolve():
        return _beside(images, below, ending)
    image_of_stem, sizes = images_by_id(images, masks, below)
    files = _pictures(masks, MASK_SUFFIXES, "mask", below)
    stems = {image_id(path) for path in image_of_stem.values()}
    if ending is None and not any(image_id(path) in stems for path in files):
        ending = common_ending(files, stems)
    return _matched(image_of_stem, sizes, files, masks, ending, f"in {masks} has the name of an image in {images}")


def _beside(folder: Path, below: bool, ending: str | None) -> ImagesAndMasks:
    """Images, and masks whose names have an ending, in one folder."""
    _check_folder(folder, "IMAGES")
    files = _pictures(folder, IMAGE_SUFFIXES, "image", below)
    stems = {image_id(path): path for path in files}
    endings = Counter(ending_of(path, stems) for path in files_in(folder, MASK_SUFFIXES, below))
    common = next((found for found, _ in endings.most_common() if found and OF_MASKS.search(found)), None)
    ending = ending or common
    if ending is None:
        raise DatasetError(
            f"images and masks are both in {folder}; add what follows the stem of an image in the name of its mask, "
            "e.g. --set data.mask_ending=_mask.png, or move the masks into a folder of their own"
        )
    masks = [path for path in files_in(folder, MASK_SUFFIXES, below) if normal(path.name).endswith(ending)]
    images = [path for path in files if path not in set(masks)]
    image_of_stem = _unique(images, folder, naming(images, folder))
    what = f"in {folder} that ends in {ending} starts with the stem of an image there"
    return _matched(image_of_stem, image_sizes(images), masks, folder, ending, what)


def _matched(
    images: dict[str, Path], sizes: Sizes, files: Sequence[Path], folder: Path, ending: str | None, what: str
) -> ImagesAndMasks:
    """The masks of images.

    folder: of the masks
    what:   what no mask has, for the message if none is matched
    """
    named = files if ending is None else [path for path in files if normal(path.name).endswith(ending)]
    id_of_file = naming(list(images.values()), folder)

    def id_of(path: Path) -> str:
        return id_of_file(path if ending is None else path.with_name(f"{normal(path.name).removesuffix(ending)}.png"))

    masks = _unique(named, folder, id_of)
    matched = {stem: path for stem, path in masks.items() if stem in images}
    if not matched:
        sample_id, first = next(iter(images.items()))
        first_mask = files[0].name if files else "missing"
        called = "" if sample_id == image_id(first) else f", which is called {sample_id}"
        raise DatasetError(
            f"no mask {what}: the first mask is {first_mask}, the first image is {first.name}{called}; give each mask "
            "the name of its image"
        )
    without_image = sorted(set(files) - set(matched.values()))
    return ImagesAndMasks(images, matched, without_image, ending, sizes)


def images_by_id(folder: Path, masks: Path, below: bool) -> tuple[dict[str, Path], Sizes]:
    """The images of a folder by stem, without those in its sub-folder of masks, and their sizes.

    raises: DatasetError as `find_files`
    """
    _check_folder(folder, "IMAGES")
    files = _outside(_pictures(folder, IMAGE_SUFFIXES, "image", below), folder, masks)
    return _unique(files, folder, naming(files, folder)), image_sizes(files)


def has_sub_folders(images: Path, masks: Path) -> bool:
    """Whether there are images in sub-folders of the image folder other than that of the masks."""
    found = _outside(files_in(images, IMAGE_SUFFIXES, below=True), images, masks)
    return any(path.parent != images for path in found)


def _outside(files: Iterable[Path], images: Path, masks: Path) -> list[Path]:
    """The files that are not below the masks, unless these are in the same folder as the images."""
    if not masks.is_dir() or images.resolve().is_relative_to(masks.resolve()):
        return list(files)
    return [path for path in files if not path.absolute().is_relative_to(masks.absolute())]


def _unique(files: Sequence[Path], folder: Path, id_of: Callable[[Path], str]) -> dict[str, Path]:
    """Files by id; DatasetError if two have the same."""
    problems: list[str] = []
    found = by_id(files, problems, id_of)
    if problems:
        raise DatasetError("\n  ".join([f"some files in {folder} have the same name:", *problems]))
    return found


def _check_folder(folder: Path, argument: str) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{argument} is {folder}, which {what}; correct {argument}")


def _pictures(folder: Path, suffixes: Sequence[str], kind: str, below: bool) -> list[Path]:
    files = files_in(folder, suffixes, below)
    if not files:
        others = files_in(folder, UNREAD_SUFFIXES, below) if kind == "mask" else []
        if others:
            raise DatasetError(unread(others))
        deeper = {path.parent for path in files_in(folder, suffixes, below=True)}
        hint = f"; use {min(deeper)}, which contains some" if deeper else f"; use {OTHERWISE[kind]}"
        raise DatasetError(f"{folder} itself contains no {kind} ({', '.join(suffixes)}){hint}")
    return files


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

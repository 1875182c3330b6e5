"""What lies in a folder of images and a folder of masks, and which mask belongs to which image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_with
from pipeline.sources.layouts import by_stem

SHOWN = 3
PLAIN_NAMES = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "frames", "data")


class Found(NamedTuple):
    """Images with and without a mask."""

    images: dict[str, Path]
    """By stem."""
    masks: dict[str, Path]
    """By the stem of their image."""
    without_image: list[Path]
    """Masks that belong to no image."""
    ending: str | None
    """What masks have after their image's stem, e.g. `_mask.png`; None if they are named as their images."""
    sizes: npt.NDArray[np.int64]
    """int64 [N, 2] heights and widths of the images whose header can be read."""


def look_into(images: Path, masks: Path) -> Found:
    """Match the files of two folders; their pixels are not read.

    raises: DatasetError for folders that are missing, empty or the same, two of one stem, and masks that fit no image
    """
    _refuse_no_folder(images, "IMAGES")
    _refuse_no_folder(masks, "--masks")
    if images.resolve() == masks.resolve():
        raise DatasetError(f"images and masks are both in {images}; move the masks into a folder of their own")
    problems: list[str] = []
    known = by_stem(_pictures(images, IMAGE_SUFFIXES, "image"), problems)
    files = _pictures(masks, MASK_SUFFIXES, "mask")
    ending = None if any(path.stem in known for path in files) else common_ending(files, known)
    of_stem = by_stem(files, problems) if ending is None else _by_ending(files, ending)
    if problems:
        raise DatasetError("\n  ".join([f"the files in {images} and {masks} cannot be told apart:", *problems]))
    matched = {stem: path for stem, path in of_stem.items() if stem in known}
    if not matched:
        raise DatasetError(
            f"no mask in {masks} has the name of an image in {images}: {files[0].name} would belong to "
            f"{files[0].stem}.*, the first image is {next(iter(known.values())).name}; name masks as their images"
        )
    alone = sorted(set(files) - set(matched.values()))
    return Found(known, matched, alone, ending, image_sizes(list(known.values())))


def _refuse_no_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        raise DatasetError(f"{what} is {folder}, which is no folder; give one that is there")


def _pictures(folder: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    found = files_with(suffixes, folder.glob("*"))
    if not found:
        below = {path.parent for path in files_with(suffixes, folder.rglob("*"))}
        hint = f"; those in {min(below)} are, give that folder" if below else "; give the folder that has some"
        raise DatasetError(f"no {what} ({', '.join(suffixes)}) lies directly in {folder}{hint}")
    return found


def common_ending(files: Sequence[Path], images: Mapping[str, Path]) -> str | None:
    """The commonest rest of mask names after an image's stem: `a_mask.png` beside image `a` gives `_mask.png`."""
    endings: Counter[str] = Counter()
    for path in files:
        starts = (path.stem[:length] for length in range(len(path.stem), 0, -1))
        stem = next((start for start in starts if start in images), None)
        if stem is not None:
            endings[path.name[len(stem) :]] += 1
    return endings.most_common(1)[0][0] if endings else None


def _by_ending(files: Sequence[Path], ending: str) -> dict[str, Path]:
    return {path.name.removesuffix(ending): path for path in files if path.name.endswith(ending)}


def image_sizes(paths: Sequence[Path]) -> npt.NDArray[np.int64]:
    """int64 [N, 2] heights and widths from the headers; those that cannot be read are left to the doctor."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = [size for size in pool.map(_header_size, paths) if size is not None]
    return np.array(sizes, np.int64).reshape(-1, 2)


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def data_paths(images: Path, masks: Path) -> dict[str, str]:
    """`root`, and `images` and `masks` below it: the nearest folder that holds both, seen from here if below."""
    here, folders = Path.cwd(), [images.absolute(), masks.absolute()]
    root = Path(os.path.commonpath([folder.parent for folder in folders]))
    if root == root.parent:  # two disks, so to speak
        return {"root": _shown(folders[0].parent, here), "images": folders[0].name, "masks": str(folders[1])}
    below = [os.path.relpath(folder, root) for folder in folders]
    return {"root": _shown(root, here), "images": below[0], "masks": below[1]}


def _shown(folder: Path, here: Path) -> str:
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def run_name(images: Path) -> str:
    """The images' folder, or what it lies in if its name says nothing; of letters, digits, `_`, `.` and `-`."""
    folder = images.absolute()
    named = next((f for f in (folder, *folder.parents) if f.name and f.name.lower() not in PLAIN_NAMES), folder)
    return re.sub(r"[^\w.-]+", "_", named.name).strip("._-") or "mine"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""Layouts of data sets: where the images and masks lie, and which mask belongs to which image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_with
from pipeline.settings import DataSettings
from pipeline.sources.lists import Entry


class Layout(NamedTuple):
    """Folders and lists are relative to `data.root`."""

    images: str
    masks: str
    train_list: str | None = None
    val_list: str | None = None
    train_folder: str | None = None
    """Folder below `images` with the training images, if they lie in folders by split."""
    val_folder: str | None = None
    more_folders: tuple[str, ...] = ()
    """Folders below `images` whose images belong to a split only if a list names them."""
    mirrored: bool = False
    """Whether the folders below `masks` are those below `images`; else all masks lie in one folder."""
    image_ending: str = ""
    """End of an image's stem that its mask's file name lacks."""
    mask_ending: str | None = None
    """What a mask's file name has instead. None: any suffix of masks."""
    completes_lists: bool = True
    """Whether masks that a list does not name, or that are not there, are looked for where the layout has them.

    The field's lists name masks that somebody derived: VOC's SegmentationClass with the masks of SBD added to it,
    Cityscapes' labelTrainIds; or, as U2PL's, none at all.
    """


LAYOUTS = {
    "folder": Layout("images", "masks", completes_lists=False),
    "voc": Layout(
        "JPEGImages",
        "SegmentationClass",
        train_list="ImageSets/Segmentation/train.txt",
        val_list="ImageSets/Segmentation/val.txt",
    ),
    "ade20k": Layout(
        "images", "annotations", train_folder="training", val_folder="validation", mirrored=True, mask_ending=".png"
    ),
    "cityscapes": Layout(
        "leftImg8bit",
        "gtFine",
        train_folder="train",
        val_folder="val",
        more_folders=("train_extra",),
        mirrored=True,
        image_ending="_leftImg8bit",
        mask_ending="_gtFine_labelIds.png",
    ),
    "coco": Layout("", "masks", train_folder="train2017", val_folder="val2017"),
}


class Tree:
    """The files of a data set: images by id, and the mask of each."""

    def __init__(self, data: DataSettings):
        layout = LAYOUTS[data.layout]
        self.layout = layout._replace(
            images=data.images or layout.images,
            masks=data.masks or layout.masks,
            mask_ending=data.mask_ending or layout.mask_ending,
        )
        self.root = Path(data.root)
        self.images = self.root / self.layout.images
        self.masks = self.root / self.layout.masks

    def scan(self, problems: list[str]) -> dict[str, Entry]:
        """Every image by its stem, with its mask if there is one; what is wrong is added to `problems`."""
        images = by_stem(self._image_files(problems), problems)
        if self.images.is_dir() and not images:
            problems.append(f"{self.images} holds no image ({', '.join(IMAGE_SUFFIXES)}); set data.images")
        masks = self._masks_by_stem(problems)
        return {
            stem: Entry(stem, path, self.mask_of(path) if masks is None else masks.get(stem))
            for stem, path in images.items()
        }

    def _image_files(self, problems: list[str]) -> Iterator[Path]:
        layout = self.layout
        if layout.train_folder is None:
            if not self.images.is_dir():
                problems.append(f"no image folder {self.images}; set data.root or data.images")
            yield from files_with(IMAGE_SUFFIXES, self.images.glob("*"))
            return
        if not (self.images / layout.train_folder).is_dir():
            problems.append(f"no image folder {self.images / layout.train_folder}; set data.root or data.images")
        for folder in (layout.train_folder, layout.val_folder, *layout.more_folders):
            if folder is not None:
                yield from files_with(IMAGE_SUFFIXES, (self.images / folder).rglob("*"))

    def _masks_by_stem(self, problems: list[str]) -> dict[str, Path] | None:
        """Masks of a folder that is looked through once; None if each mask has one place where it can be."""
        if self.layout.mask_ending is not None:
            return None
        return by_stem(files_with(MASK_SUFFIXES, self.masks.glob("*")), problems)

    def mask_of(self, image: Path) -> Path | None:
        """Mask file of an image, if it is there."""
        stem = image.stem.removesuffix(self.layout.image_ending)
        folder = self.masks
        if self.layout.mirrored:
            if not image.is_relative_to(self.images):
                return None
            folder /= image.parent.relative_to(self.images)
        endings = MASK_SUFFIXES if self.layout.mask_ending is None else (self.layout.mask_ending,)
        return next((path for path in (folder / f"{stem}{ending}" for ending in endings) if path.is_file()), None)

    def entries_in(self, folder: str, known: Iterable[Entry]) -> list[Entry]:
        """Those of the known images that lie below a folder of the image folder."""
        start = f"{self.images / folder}{os.sep}"  # as text: COCO has 123,287 images
        return [entry for entry in known if str(entry.image).startswith(start)]


def by_stem(paths: Iterable[Path], problems: list[str]) -> dict[str, Path]:
    """Files by their stem; two of the same stem are added to `problems`."""
    files: dict[str, Path] = {}
    for path in paths:
        if path.stem in files:
            first = files[path.stem]
            shown = first.name if first.parent == path.parent else first
            problems.append(f"{path} and {shown} share the stem {path.stem}; rename or remove one")
        files[path.stem] = path
    return files

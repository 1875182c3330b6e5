"""Layouts of data sets: the folders of images and masks, and the mask of each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, existing, files_with, image_id
from pipeline.settings import DataSettings
from pipeline.sources.lists import Entry


class Layout(NamedTuple):
    """The folders and lists of a data set, relative to `data.root`."""

    images: str
    masks: str
    train_list: str | None = None
    val_list: str | None = None
    train_folder: str | None = None
    """Folder below `images` with the training images, if there is one folder per split."""
    val_folder: str | None = None
    more_folders: tuple[str, ...] = ()
    """More folders below `images`. Their images belong to a split only if a list names them."""
    mirrored: bool = False
    """True: the folders below `masks` are the same as those below `images`. False: all masks are in one folder."""
    image_ending: str = ""
    """End of an image's stem that the file name of its mask does not have."""
    mask_ending: str | None = None
    """End of a mask's file name in place of `image_ending`. None: any suffix of masks."""
    completes_lists: bool = True
    """Whether masks that a list does not name, or that do not exist, are looked up in the layout's mask folder.

    Published lists often name derived masks, e.g. VOC's SegmentationClass with the masks of SBD added, or Cityscapes'
    labelTrainIds. U2PL's lists name no masks.
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
        self.images = existing(self.root / self.layout.images)
        self.masks = existing(self.root / self.layout.masks)

    def scan(self, problems: list[str]) -> dict[str, Entry]:
        """Every image by its id, with its mask if there is one. Messages of errors are added to `problems`."""
        images = by_id(self._image_files(problems), problems)
        if self.images.is_dir() and not images:
            problems.append(f"{self.images} contains no image ({', '.join(IMAGE_SUFFIXES)}); set data.images")
        masks = self._masks_by_id(problems)
        return {
            name: Entry(name, path, self.mask_of(path) if masks is None else masks.get(name))
            for name, path in images.items()
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

    def _masks_by_id(self, problems: list[str]) -> dict[str, Path] | None:
        """Masks by id, from one listing of the mask folder; None if the path of a mask follows from its image."""
        if self.layout.mask_ending is not None:
            return None
        return by_id(files_with(MASK_SUFFIXES, self.masks.glob("*")), problems)

    def mask_of(self, image: Path) -> Path | None:
        """Mask file of an image; None if it does not exist."""
        stem = image.stem.removesuffix(self.layout.image_ending)
        folder = self.masks
        if self.layout.mirrored:
            if not image.is_relative_to(self.images):
                return None
            folder /= image.parent.relative_to(self.images)
        endings = MASK_SUFFIXES if self.layout.mask_ending is None else (self.layout.mask_ending,)
        paths = (existing(folder / f"{stem}{ending}") for ending in endings)
        return next((path for path in paths if os.path.isfile(path)), None)

    def entries_in(self, folder: str, known: Iterable[Entry]) -> list[Entry]:
        """Those of the known images that are below a folder of the image folder."""
        start = f"{self.images / folder}{os.sep}"  # strings are faster than paths: COCO has 123,287 images
        return [entry for entry in known if str(entry.image).startswith(start)]


def by_id(paths: Iterable[Path], problems: list[str]) -> dict[str, Path]:
    """Files by their id, see `image_id`. Two files with the same id are added to `problems`."""
    files: dict[str, Path] = {}
    for path in paths:
        name = image_id(path)
        if name in files:
            first = files[name]
            shown = first.name if first.parent == path.parent else first
            form = "" if path.stem == first.stem else ", written with other Unicode characters"
            problems.append(f"{path} and {shown} have the same stem {name}{form}; rename or remove one of them")
        files[name] = path
    return files

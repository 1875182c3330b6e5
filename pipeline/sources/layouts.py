"""Layouts of data sets: the folders of images and masks, and the mask of each image."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, existing, files_in, image_id, is_file, normal
from pipeline.settings import DataSettings
from pipeline.sources.ids import BETWEEN_FOLDERS
from pipeline.sources.lists import Entry

CORRECTED = "corrected"  # folder below data.root with masks that import-masks wrote
UNREAD_SUFFIXES = (".jpg", ".jpeg", ".webp", ".jp2", ".npy", ".npz", ".mat")
"""Formats in which masks are often saved, but that are not read."""


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
        self.has_subfolders = data.subfolders and layout.train_folder is None

    def scan(self, problems: list[str]) -> dict[str, Entry]:
        """Every image by its id, with its mask if there is one. Messages of errors are added to `problems`."""
        ending = self.layout.mask_ending
        if ending is None and self.has_one_folder:
            problems.append(
                f"images and masks are both in {self.images}; set data.mask_ending to what follows the id of an image "
                "in the name of its mask, e.g. _mask.png, or move the masks into a folder of their own"
            )
            return {}
        files = list(self._without_masks(self._image_files(problems)))
        images = by_id(files, problems, naming(files, self.images) if self.has_subfolders else image_id)
        if self.images.is_dir() and not images:
            others = f" besides those ending in {ending}" if self.has_one_folder else ""
            problems.append(f"{self.images} contains no image{others} ({', '.join(IMAGE_SUFFIXES)}); set data.images")
        masks = self._masks_by_id(problems)
        return {
            name: Entry(name, path, self.mask_of(path, name) if masks is None else masks.get(name))
            for name, path in images.items()
        }

    @property
    def has_one_folder(self) -> bool:
        """Whether images and masks are in the same folder."""
        return self.images.resolve() == self.masks.resolve()

    def _without_masks(self, files: Iterable[Path]) -> Iterator[Path]:
        """The files that are no masks: those outside folders of masks, or without the ending of a mask."""
        ending = normal(self.layout.mask_ending or "") if self.has_one_folder else ""
        if ending:
            files = (path for path in files if not normal(path.name).endswith(ending))
        folders = [] if self.has_one_folder else [self.masks]
        below = [folder for folder in (*folders, self.root / CORRECTED) if folder not in self.images.parents]
        starts = tuple(
            f"{folder}{os.sep}" for folder in below
        )  # strings are faster than paths: COCO has 123,287 images
        yield from (path for path in files if not str(path).startswith(starts))

    def _image_files(self, problems: list[str]) -> Iterator[Path]:
        layout = self.layout
        if layout.train_folder is None:
            if not self.images.is_dir():
                problems.append(f"no image folder {self.images}; set data.root or data.images")
            yield from files_in(self.images, IMAGE_SUFFIXES, below=self.has_subfolders)
            return
        if not (self.images / layout.train_folder).is_dir():
            problems.append(f"no image folder {self.images / layout.train_folder}; set data.root or data.images")
        for folder in (layout.train_folder, layout.val_folder, *layout.more_folders):
            if folder is not None:
                yield from files_in(self.images / folder, IMAGE_SUFFIXES, below=True)

    def pictures(self, suffixes: Sequence[str], below: bool) -> list[Path]:
        """Files in the image folder that are no masks. below: also those in its sub-folders"""
        return list(self._without_masks(files_in(self.images, suffixes, below)))

    def _masks_by_id(self, problems: list[str]) -> dict[str, Path] | None:
        """Masks by id, from one listing of the mask folder; None if the path of a mask follows from its image."""
        if self.layout.mask_ending is not None or self.has_subfolders:
            return None
        return by_id(files_in(self.masks, MASK_SUFFIXES), problems)

    def mask_of(self, image: Path, sample_id: str | None = None) -> Path | None:
        """Mask file of an image; None if it does not exist. sample_id: default: the stem of the image"""
        endings = MASK_SUFFIXES if self.layout.mask_ending is None else (self.layout.mask_ending,)
        starts = self._mask_starts(image, image.stem if sample_id is None else sample_id)
        paths = (existing(start.with_name(f"{start.name}{ending}")) for start in starts for ending in endings)
        return next((path for path in paths if is_file(path)), None)

    def _mask_starts(self, image: Path, sample_id: str) -> list[Path]:
        """Paths, without their endings, that the mask of an image may have.

        In a sub-folder, the same sub-folder of the masks is first. The masks' folder itself has masks named by id.
        """
        end = self.layout.image_ending
        flat = [] if self.layout.mirrored else [self.masks / sample_id.removesuffix(end)]
        if (self.layout.mirrored or self.has_subfolders) and image.is_relative_to(self.images):
            folder = self.masks / image.parent.relative_to(self.images)
            return [folder / image.stem.removesuffix(end), *flat]
        return flat

    def unread_masks(self, entries: Iterable[Entry]) -> list[str]:
        """A message if images without a mask have one in a format that is not read; [] if they have not."""
        if self.layout.mirrored or self.has_one_folder or not self.masks.is_dir():
            return []
        end_of_stem, _ = os.path.splitext(f"/{normal(self.layout.mask_ending or '')}")
        without = {f"{e.id.removesuffix(self.layout.image_ending)}{end_of_stem[1:]}" for e in entries if e.mask is None}
        files = [p for p in files_in(self.masks, UNREAD_SUFFIXES, below=self.has_subfolders) if image_id(p) in without]
        return [unread(files)] if files else []

    def why_no_masks(self, entries: Iterable[Entry]) -> str:
        """Why no image has a mask, and what to do about it."""
        if not self.masks.is_dir():
            return f"there is no mask folder {self.masks}; set data.masks"
        files = files_in(self.masks, MASK_SUFFIXES, below=self.layout.mirrored or self.has_subfolders)
        if not files:
            return f"{self.masks} contains no mask ({', '.join(MASK_SUFFIXES)}); set data.masks"
        image = next((entry.image.name for entry in entries if entry.image is not None), "none")
        return (
            f"no mask has the name of an image, e.g. the mask {files[0].name} and the image {image}; set "
            "data.mask_ending to what follows the id of an image in the name of its mask, e.g. _mask.png"
        )

    def entries_in(self, folder: str, known: Iterable[Entry]) -> list[Entry]:
        """Those of the known images that are below a folder of the image folder."""
        start = f"{self.images / folder}{os.sep}"
        return [entry for entry in known if str(entry.image).startswith(start)]


def unread(files: Sequence[Path]) -> str:
    """The message about masks in formats that are not read."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return (
        f"{files[0]}{more} cannot be read as masks, whose formats are {', '.join(MASK_SUFFIXES)}: JPEG and WebP change "
        "class values, and arrays are no images; export the masks again as PNG from the original, or, if their images "
        "are unlabeled, move them out of the folder"
    )


def path_id(path: Path, folder: Path) -> str:
    """Id of a file below a folder that contains its sub-folders: `cam1/0001.jpg` -> `cam1__0001`.

    An id is the name of many files, so it has no slash.
    """
    parts = (*path.relative_to(folder).parts[:-1], path.stem)
    return normal(BETWEEN_FOLDERS.join(parts))


def naming(images: Sequence[Path], folder: Path) -> Callable[[Path], str]:
    """The ids of images below a folder: stems or, if two in different sub-folders have the same, `path_id`."""
    are_unique = len({image_id(path) for path in images}) == len(images)
    return image_id if are_unique else functools.partial(path_id, folder=folder)


def by_id(paths: Iterable[Path], problems: list[str], id_of: Callable[[Path], str] = image_id) -> dict[str, Path]:
    """Files by their id. Two files with the same id are added to `problems`."""
    files: dict[str, Path] = {}
    for path in paths:
        name = id_of(path)
        if name in files:
            first = files[name]
            shown = first.name if first.parent == path.parent else first
            form = "" if path.stem == first.stem else ", written with other Unicode characters"
            problems.append(f"{path} and {shown} have the same stem {name}{form}; rename or remove one of them")
        files[name] = path
    return files

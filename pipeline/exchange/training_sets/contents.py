"""The images of a training set with their labels: human masks, pseudo-labels and the masks of val, in one coding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from pipeline.datasets import IGNORE_INDEX, Sample
from pipeline.errors import StoreError
from pipeline.exchange.images import ImageFiles
from pipeline.exchange.labels import ExportedLabels, Label
from pipeline.exchange.texts import render
from pipeline.palette import Colours
from pipeline.settings import DataSettings

Part = Literal["labeled", "pseudo", "val"]


class Entry(NamedTuple):
    """One image of a training set.

    name: of its files, without a suffix; the id of the image, with _ for spaces, which lists of files cannot contain
    part: labeled (a human mask), pseudo (a pseudo-label) or val (a human mask, for evaluation only)
    """

    name: str
    part: Part
    sample: Sample

    @property
    def split(self) -> str:
        """`train` or `val`."""
        return "val" if self.part == "val" else "train"


@dataclass(frozen=True)
class TrainingSet:
    """A training set.

    folder:   where it will be
    exported: the pseudo-labels
    data:     classes and mask values of the human masks
    entries:  all images, in the order labeled, pseudo, val
    suffix:   of all images
    """

    folder: Path
    exported: ExportedLabels
    data: DataSettings
    files: ImageFiles
    entries: tuple[Entry, ...]
    suffix: str

    @property
    def class_names(self) -> list[str]:
        return self.exported.class_names

    @property
    def colours(self) -> Colours:
        """uint8 [K, 3] RGB."""
        return self.exported.colours

    @property
    def background(self) -> int | None:
        return self.exported.background

    def of(self, *parts: Part) -> list[Entry]:
        return [entry for entry in self.entries if entry.part in parts]

    def label(self, entry: Entry) -> Label:
        """uint8 [H, W]: class index, 255 = void or abstain; DatasetError if a mask is not the one that prepare read."""
        if entry.part == "pseudo":
            return self.exported.label(self.exported.index_of[entry.sample.id])
        return self.exported.index.mask(entry.sample, self.data)

    def put_image(self, entry: Entry, path: Path) -> None:
        """Put the image at a path without suffix, see `ImageFiles.put`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.files.put(entry.sample, path.with_name(f"{path.name}{self.suffix}"))

    def lists(self) -> dict[str, list[Entry]]:
        """The images of each list: labeled, pseudo, both as train, and val."""
        parts: dict[str, tuple[Part, ...]] = {
            "labeled": ("labeled",),
            "pseudo": ("pseudo",),
            "train": ("labeled", "pseudo"),
            "val": ("val",),
        }
        return {name: self.of(*chosen) for name, chosen in parts.items()}

    def write_classes(self, folder: Path) -> None:
        """Write classes.txt: one name per line, the first is value 0."""
        write_lines(folder / "classes.txt", self.class_names)

    def write_text(self, path: Path, template: str, **values: Any) -> None:
        """Write a text from a template of this package, which gets the facts of the data set."""
        facts = {
            "class_names": self.class_names,
            "colours": self.colours.tolist(),
            "background": self.background,
            "suffix": self.suffix,
            "num_images": {name: len(entries) for name, entries in self.lists().items()},
            "ignore": IGNORE_INDEX,
            "folder": str(self.folder.absolute()),
        }
        path.write_text(render(f"training_sets/{template}", **facts, **values), encoding="utf-8")


def make_training_set(
    folder: Path, exported: ExportedLabels, indices: Sequence[int], data: DataSettings, files: ImageFiles
) -> TrainingSet:
    """The training set of a run.

    indices: of the pseudo-labels in the store
    raises:  StoreError if the labels have other classes than the run, or two images would get the same name
    """
    if exported.class_names != data.class_names:
        raise StoreError(
            f"{exported.store.path} has the classes {exported.class_names}, expected {data.class_names}; "
            "run pseudolabel of this run, or change data.classes back"
        )
    human = [sample for sample in exported.index.of("labeled", "val") if sample.mask is not None]
    found: list[tuple[Part, Sample]] = [
        *(("labeled", sample) for sample in human if sample.split == "labeled"),
        *(("pseudo", exported.samples[index]) for index in indices),
        *(("val", sample) for sample in human if sample.split == "val"),
    ]
    entries = tuple(Entry(re.sub(r"\s", "_", sample.id), part, sample) for part, sample in found)
    _refuse_same_names(entries)
    return TrainingSet(folder, exported, data, files, entries, files.common_suffix(sample for _, sample in found))


def _refuse_same_names(entries: Sequence[Entry]) -> None:
    first: dict[str, str] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry.sample.id)
        if other != entry.sample.id:
            raise StoreError(
                f"the images {other!r} and {entry.sample.id!r} would both be named {entry.name!r}, because lists of "
                "files cannot contain spaces; rename one of them, and run prepare"
            )


def save_grey(label: Label, path: Path) -> None:
    """Write a label as PNG in grey, whose values every program reads alike; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path, format="PNG", compress_level=1)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines of text in UTF-8; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

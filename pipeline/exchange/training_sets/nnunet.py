"""nnU-Net v2: a raw data set of PNG files. Its labels are consecutive, 0 is background, and the largest is ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import StoreError
from pipeline.exchange.labels import Label
from pipeline.exchange.training_sets.contents import Entry, TrainingSet, save_grey
from pipeline.files import write_json

BACKGROUND, IGNORE = "background", "ignore"


def label_values(content: TrainingSet) -> dict[str, int]:
    """nnU-Net's value of each label by name. A run without background has a background without pixels.

    raises: StoreError for a class with a name that has a meaning of its own in nnU-Net
    """
    others = [name for index, name in enumerate(content.class_names) if index != content.background]
    taken = next((name for name in others if name in (BACKGROUND, IGNORE)), None)
    if taken is not None:
        raise StoreError(
            f"the class {taken!r} cannot be exported to nnU-Net, which uses this name itself; rename it in data.classes"
        )
    return {name: value for value, name in enumerate((BACKGROUND, *others, IGNORE))}


def coded(label: Label, content: TrainingSet) -> npt.NDArray[np.uint8]:
    """nnU-Net's values of a label: uint8 [H, W]."""
    values = label_values(content)
    lookup = np.zeros(IGNORE_INDEX + 1, np.uint8)
    for index, name in enumerate(content.class_names):
        lookup[index] = values[BACKGROUND if index == content.background else name]
    lookup[IGNORE_INDEX] = values[IGNORE]
    return lookup[label]


def write_image(folder: Path, content: TrainingSet, entry: Entry, label: Label) -> None:
    """Write imagesTr/NAME_0000.png and labelsTr/NAME.png."""
    content.put_image(entry, folder / "imagesTr" / f"{entry.name}_0000")
    save_grey(coded(label, content), folder / "labelsTr" / f"{entry.name}.png")


def write_rest(folder: Path, content: TrainingSet) -> None:
    """Write dataset.json, and splits_final.json, whose only fold has the val images of the run."""
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": label_values(content),
        "numTraining": len(content.entries),
        "file_ending": content.suffix,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    write_json(folder / "dataset.json", description)
    names = {"train": content.of("labeled", "pseudo"), "val": content.of("val")}
    fold = {name: [entry.name for entry in entries] for name, entries in names.items()}
    write_json(folder / "splits_final.json", [fold])

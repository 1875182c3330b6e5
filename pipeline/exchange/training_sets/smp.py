"""segmentation-models-pytorch, which has no format: lists of pairs, and a script that trains."""

from __future__ import annotations

from pathlib import Path

from pipeline.exchange.labels import Label
from pipeline.exchange.training_sets.contents import Entry, TrainingSet, save_grey, write_lines


def write_image(folder: Path, content: TrainingSet, entry: Entry, label: Label) -> None:
    """Write images/NAME and masks/NAME.png."""
    content.put_image(entry, folder / "images" / entry.name)
    save_grey(label, folder / "masks" / f"{entry.name}.png")


def pair(content: TrainingSet, entry: Entry) -> str:
    """Line of a list: image and mask, relative to the folder."""
    return f"images/{entry.name}{content.suffix} masks/{entry.name}.png"


def write_rest(folder: Path, content: TrainingSet) -> None:
    """Write the lists, and the script."""
    content.write_classes(folder)
    for name, entries in content.lists().items():
        write_lines(folder / f"{name}.txt", [pair(content, entry) for entry in entries])
    content.write_text(folder / "train.py", "smp.py.jinja")

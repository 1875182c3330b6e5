"""MMSegmentation 1.x: img_dir and ann_dir, lists of names, and a config that trains SegFormer on them."""

from __future__ import annotations

from pathlib import Path

from pipeline.exchange.labels import Label
from pipeline.exchange.training_sets.contents import Entry, TrainingSet, save_grey, write_lines


def write_image(folder: Path, content: TrainingSet, entry: Entry, label: Label) -> None:
    """Write img_dir/SPLIT/NAME and ann_dir/SPLIT/NAME.png."""
    content.put_image(entry, folder / "img_dir" / entry.split / entry.name)
    save_grey(label, folder / "ann_dir" / entry.split / f"{entry.name}.png")


def write_rest(folder: Path, content: TrainingSet) -> None:
    """Write the lists of names, and the config."""
    content.write_classes(folder)
    for name, entries in content.lists().items():
        write_lines(folder / "splits" / f"{name}.txt", [entry.name for entry in entries])
    content.write_text(folder / "config.py", "mmseg.py.jinja")

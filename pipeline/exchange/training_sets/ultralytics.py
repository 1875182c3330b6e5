"""Ultralytics: masks for its semantic task, which ignores 255, and outlines for its segment task, which cannot."""

from __future__ import annotations

from pathlib import Path

from pipeline.exchange import yolo
from pipeline.exchange.labels import Label
from pipeline.exchange.training_sets.contents import Entry, TrainingSet, save_grey, write_lines


def write_image(folder: Path, content: TrainingSet, entry: Entry, label: Label) -> None:
    """Write images/SPLIT/NAME, masks/SPLIT/NAME.png and labels/SPLIT/NAME.txt."""
    content.put_image(entry, folder / "images" / entry.split / entry.name)
    save_grey(label, folder / "masks" / entry.split / f"{entry.name}.png")
    lines = yolo.lines(label, content.background)
    write_lines(folder / "labels" / entry.split / f"{entry.name}.txt", lines)


def write_rest(folder: Path, content: TrainingSet) -> None:
    """Write the lists of images, and one YAML file per task."""
    content.write_classes(folder)
    for name, entries in content.lists().items():
        paths = [f"./images/{entry.split}/{entry.name}{content.suffix}" for entry in entries]
        write_lines(folder / f"{name}.txt", paths)
    content.write_text(folder / "semantic.yaml", "ultralytics.yaml.jinja", names=content.class_names, task="semantic")
    objects = yolo.object_names(content.class_names, content.background)
    content.write_text(folder / "segment.yaml", "ultralytics.yaml.jinja", names=objects, task="segment")

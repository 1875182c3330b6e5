"""UniMatch and UniMatch V2: lists of pairs for its labeled, unlabeled and val images, and its config."""

from __future__ import annotations

from pathlib import Path

from pipeline.exchange.training_sets.contents import TrainingSet, write_lines
from pipeline.exchange.training_sets.smp import pair, write_image

__all__ = ["write_image", "write_rest"]


def write_rest(folder: Path, content: TrainingSet) -> None:
    """Write the lists, and the config. The unlabeled list names the pseudo-labels, which UniMatch opens or ignores."""
    content.write_classes(folder)
    lists = {
        "labeled": content.of("labeled"),
        "unlabeled": content.of("pseudo"),
        "labeled_and_pseudo": content.of("labeled", "pseudo"),
        "val": content.of("val"),
    }
    for name, entries in lists.items():
        write_lines(folder / "splits" / f"{name}.txt", [pair(content, entry) for entry in entries])
    content.write_text(folder / "conformalsam.yaml", "unimatch.yaml.jinja")

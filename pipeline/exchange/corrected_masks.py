"""The folder of a run's corrected masks, and the id lists and the run file with which the run reads them.

The lists fix the current splits. A new mask moves its image from unlabeled to labeled. Validation images stay the same,
even if they were drawn from the images with masks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.datasets import SPLITS, Sample, SampleIndex, Split
from pipeline.errors import ConfigError, DatasetError
from pipeline.files import file_digest, write_text
from pipeline.run_file import CONFIG_FOLDER, beside, find_run_file, full_names
from pipeline.settings import Settings
from pipeline.sources.layouts import CORRECTED
from pipeline.sources.lists import NO_MASK

SUFFIX = "_corrected"


class CorrectedMasks:
    """The folder DATA_ROOT/corrected/RUN of a run: masks/ID.png, and the id lists of its splits."""

    def __init__(self, settings: Settings):
        self.root = Path(settings.data.root)
        self.folder = self.root / CORRECTED / settings.name
        self.masks = self.folder / "masks"

    def mask(self, sample_id: str) -> Path:
        return self.masks / f"{sample_id}.png"

    def lists(self) -> dict[str, str]:
        """Settings `data.splits` of a run that reads the lists, relative to the data root."""
        return {split: str((self.folder / f"{split}.txt").relative_to(self.root)) for split in SPLITS}

    def are_read_by(self, settings: Settings) -> bool:
        return {split: getattr(settings.data.splits, split) for split in SPLITS} == self.lists()

    def index_with(self, index: SampleIndex, new: Collection[str] = ()) -> SampleIndex:
        """The samples that prepare will find when it reads the lists.

        new: ids of images whose masks will be moved into the folder
        """
        samples = [
            self._corrected(sample) if sample.id in new or self.mask(sample.id).is_file() else sample
            for sample in index.samples
        ]
        return SampleIndex(index.root, tuple(sorted(samples, key=lambda sample: SPLITS.index(sample.split))))

    def _corrected(self, sample: Sample) -> Sample:
        path = self.mask(sample.id)
        digest = file_digest(path) if path.is_file() else ""
        split: Split = "labeled" if sample.split == "unlabeled" else sample.split
        return replace(sample, split=split, mask=str(path.relative_to(self.root)), mask_digest=digest)

    def write_lists(self, index: SampleIndex) -> None:
        for split, lines in list_lines(index).items():
            write_text(self.folder / f"{split}.txt", "".join(f"{line}\n" for line in lines))


def list_lines(index: SampleIndex) -> dict[Split, list[str]]:
    """Lines of the id list of each split: image and mask, separated by a space, or by a tab if a name has a space.

    raises: DatasetError for a path that a list cannot contain, and if no image is unlabeled
    """
    if not index.of("unlabeled"):
        raise DatasetError("no unlabeled image would be left; import fewer masks, so that at least one image is left")
    return {split: [_list_line(sample) for sample in index.of(split)] for split in SPLITS}


def _list_line(sample: Sample) -> str:
    words = [_listable(sample.image), NO_MASK if sample.mask is None else _listable(sample.mask)]
    return ("\t" if any(word.split() != [word] for word in words) else " ").join(words)


def _listable(path: str) -> str:
    if path != path.strip() or re.search(r"[\t\n\r]", path):
        raise DatasetError(
            f"{path!r} contains a tab, a line end or an outer space, which an id list cannot contain; rename the file "
            "and run prepare again"
        )
    return path


class RunFile(NamedTuple):
    """A run file to be written."""

    path: Path
    text: str

    @property
    def run(self) -> str:
        """Value of `--config run=` for this file."""
        return self.path.stem if self.path.parent == CONFIG_FOLDER else str(self.path)


def run_file_for(run: str, overrides: Mapping[str, Any], settings: Settings, masks: CorrectedMasks) -> RunFile | None:
    """A second run file of a run that reads the lists of its corrected masks; None if the run reads them already.

    It has the same run name, so results and maps are the same, and contains the overrides.

    raises: ConfigError if another file has its name
    """
    if masks.are_read_by(settings):
        return None
    original = find_run_file(run)
    tree: dict[str, Any] = {"extends": original.name, "name": settings.name}
    chosen = full_names(overrides) | {f"data.splits.{split}": path for split, path in masks.lists().items()}
    for name, value in chosen.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    text = f"# {original.name} with the corrected masks imported by conformalsam import-masks.\n"
    file = RunFile(beside(original, f"{original.stem}{SUFFIX}"), text + yaml.safe_dump(tree, sort_keys=False))
    if file.path.is_file() and file.path.read_text(encoding="utf-8") != file.text:
        raise ConfigError(
            f"{file.path} exists and is another run file; import into it (RUN {file.run}), or move it to another folder"
        )
    return file

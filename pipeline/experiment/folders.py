"""The folders of an experiment's runs: what they share is there by reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.datasets import SampleIndex, read_mask_values, unknown_mask_values
from pipeline.errors import DatasetError
from pipeline.files import file_digest, write_json
from pipeline.folder import STAGE_OF, Folder
from pipeline.settings import DataSettings
from pipeline.sources import truth_path

PREPARED = ("prepare",)
ANNOTATED = (*PREPARED, "annotate")
LABELED = (*ANNOTATED, "calibrate", "pseudolabel")
STORE_OF = {stage: kind for kind, stage in STAGE_OF.items()}


def products(folder: Folder, stage: str) -> tuple[Path, Path]:
    """What a stage writes: its store or the list of samples, and its receipt."""
    result = folder.samples if stage == "prepare" else folder.store(STORE_OF[stage])
    return result, folder.receipt(stage)


def link(source: Path, folder: Path, stages: Sequence[str]) -> None:
    """Put symbolic links to what stages of one run wrote into the folder of another; links of before are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (path for stage in stages for path in products(Folder(source.absolute()), stage)):
        target, place = path, folder / path.name
        if not target.exists():  # a cache of maps that was deleted: labels do not need it any more
            continue
        if place.is_symlink():
            place.unlink()
        place.symlink_to(os.path.relpath(target, folder.absolute()))


def write_with_every_mask(index: SampleIndex, data: DataSettings, folder: Path) -> SampleIndex:
    """samples.json of a run whose unlabeled images are labeled: the upper bound of what labels can teach.

    raises: DatasetError if an unlabeled image has no mask, or one with values that no class names
    """
    samples = []
    for sample in index.samples:
        if sample.split == "unlabeled":
            mask = truth_path(sample, data)
            if mask is None or not mask.is_file():
                raise DatasetError(f"the unlabeled image {sample.id} has no mask; the row of all masks needs every one")
            unknown = unknown_mask_values(read_mask_values(mask), data)
            if unknown:
                raise DatasetError(f"{mask} has values that no class names: {', '.join(map(str, unknown[:8]))}")
            place = os.path.relpath(mask, index.root)
            sample = replace(sample, split="labeled", mask=place, mask_digest=file_digest(mask))
        samples.append(sample)
    complete = SampleIndex(index.root, tuple(samples))
    write_json(Folder(folder).samples, complete.as_json())
    return complete

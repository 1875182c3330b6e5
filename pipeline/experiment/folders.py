"""The folders of an experiment's runs: what they share is there by reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.datasets import SampleIndex, read_mask_values, unknown_mask_values
from pipeline.errors import DatasetError
from pipeline.files import file_digest, write_json
from pipeline.settings import DataSettings
from pipeline.sources import truth_path

PREPARED = ("samples.json", "prepare.json")
ANNOTATED = (*PREPARED, "probs.zarr", "annotate.json")
LABELED = (*ANNOTATED, "calibration.zarr", "calibrate.json", "labels.zarr", "pseudolabel.json")


def link(source: Path, folder: Path, names: Sequence[str]) -> None:
    """Put symbolic links to files and stores of one run into the folder of another; links of before are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        target, place = source.absolute() / name, folder / name
        if not target.exists():  # a cache of maps that was deleted: labels do not need it any more
            continue
        if place.is_symlink():
            place.unlink()
        place.symlink_to(os.path.relpath(target, folder.absolute()))


def write_with_every_mask(index: SampleIndex, data: DataSettings, folder: Path) -> SampleIndex:
    """samples.json of a run whose unlabelled images are labelled: the upper bound of what labels can teach.

    raises: DatasetError if an unlabelled image has no mask, or one with values that no class names
    """
    samples = []
    for sample in index.samples:
        if sample.split == "unlabeled":
            mask = truth_path(sample, data)
            if mask is None or not mask.is_file():
                raise DatasetError(
                    f"the unlabelled image {sample.id} has no mask; the row of all masks needs every one"
                )
            unknown = unknown_mask_values(read_mask_values(mask), data)
            if unknown:
                raise DatasetError(f"{mask} has values that no class names: {', '.join(map(str, unknown[:8]))}")
            place = os.path.relpath(mask, index.root)
            sample = replace(sample, split="labeled", mask=place, mask_digest=file_digest(mask))
        samples.append(sample)
    complete = SampleIndex(index.root, tuple(samples))
    write_json(folder / "samples.json", complete.as_json())
    return complete

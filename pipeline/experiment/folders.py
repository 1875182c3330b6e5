"""The folders of an experiment's runs, in which symbolic links stand for files that several runs use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.datasets import SampleIndex, decode_index_mask, save_samples
from pipeline.errors import DatasetError
from pipeline.files import content_digest
from pipeline.folder import STAGE_OF, Folder
from pipeline.images import PixelLimit, read_content
from pipeline.record import write_record
from pipeline.settings import DataSettings
from pipeline.sources import truth_path
from pipeline.sources.palettes import palette_problems
from pipeline.sources.true_masks import refuse_unfit

PREPARED = ("prepare",)
ANNOTATED = (*PREPARED, "annotate")
LABELED = (*ANNOTATED, "calibrate", "pseudolabel")
STORE_OF = {stage: kind for kind, stage in STAGE_OF.items()}


def products(folder: Folder, stage: str) -> tuple[Path, Path]:
    """Paths of what a stage writes: its store or samples.json, and its receipt."""
    result = folder.samples if stage == "prepare" else folder.store(STORE_OF[stage])
    return result, folder.receipt(stage)


def write_experiment(folder: Path, config: Sequence[str]) -> None:
    """Write the arguments of `--config` of an experiment into a folder of its labels or of a run."""
    write_record(Folder(folder).experiment, {"config": list(config)})


def link(source: Path, folder: Path, stages: Sequence[str]) -> None:
    """Link the products of stages of the run in `source` into `folder`, the folder of another run.

    Earlier links are replaced. A product that does not exist is skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (path for stage in stages for path in products(Folder(source.absolute()), stage)):
        if not path.exists():  # probs.zarr may have been deleted: finished labels do not need it
            continue
        symlink = folder / path.name
        if symlink.is_symlink():
            symlink.unlink()
        symlink.symlink_to(os.path.relpath(path, folder.absolute()))


def write_with_every_mask(index: SampleIndex, data: DataSettings, folder: Path) -> SampleIndex:
    """Write samples.json of a run in which the unlabeled images are labeled with their true masks; return its samples.

    Its student is an upper bound for all labels.

    raises: DatasetError if an unlabeled image has no mask, or one that `prepare` would refuse
    """
    samples, colours = [], {}
    for sample in index.samples:
        path = truth_path(sample, data)
        if path is None or not path.is_file():
            raise DatasetError(f"the unlabeled image {sample.id} has no mask; the row every-mask needs all masks")
        content = read_content(path)
        mask = decode_index_mask(content, path, PixelLimit(data.max_pixels))
        colours[str(path)] = mask.colours()
        if sample.split == "unlabeled":
            refuse_unfit(path, mask, sample, data)
            relative = os.path.relpath(path, index.root)
            sample = replace(sample, split="labeled", mask=relative, mask_digest=content_digest(content))
        samples.append(sample)
    for problem in palette_problems(colours):
        raise DatasetError(problem)
    complete = SampleIndex(index.root, tuple(samples))
    save_samples(Folder(folder).samples, complete)
    return complete

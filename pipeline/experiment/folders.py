"""The samples of an experiment's runs, and the stages whose products they link from other runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pipeline.datasets import SampleIndex, decode_index_mask, save_samples
from pipeline.errors import DatasetError
from pipeline.files import content_digest
from pipeline.folder import Folder
from pipeline.images import PixelLimit, read_content
from pipeline.settings import DataSettings
from pipeline.sources import truth_path
from pipeline.sources.palettes import palette_problems
from pipeline.sources.true_masks import refuse_other_size, refuse_unknown

PREPARED = ("prepare",)
ANNOTATED = (*PREPARED, "annotate")
LABELED = (*ANNOTATED, "calibrate", "pseudolabel")


def write_with_every_mask(index: SampleIndex, data: DataSettings, folder: Path) -> SampleIndex:
    """Write samples.json of a run in which the unlabeled images are labeled with their true masks; return its samples.

    Its student is an upper bound for all labels.

    raises: DatasetError if an unlabeled image has no mask, or one that `prepare` would refuse
    """
    samples, colours = [], {}
    for sample in index.samples:
        if sample.tile is not None and sample.mask is None:
            raise DatasetError(
                f"{sample.id} is a tile of an unlabeled image, whose mask the row every-mask does not cut; name the "
                "other rows: --config arms=..."
            )
        path = truth_path(sample, data)
        if path is None or not path.is_file():
            raise DatasetError(f"the unlabeled image {sample.id} has no mask; the row every-mask needs all masks")
        content = read_content(path)
        mask = decode_index_mask(content, path, PixelLimit(data.max_pixels))
        colours[str(path)] = mask.colours()
        if sample.split == "unlabeled":
            refuse_unknown(path, mask, data)
            refuse_other_size(path, mask.values.shape, sample)
            relative = os.path.relpath(path, index.root)
            sample = replace(sample, split="labeled", mask=relative, mask_digest=content_digest(content))
        samples.append(sample)
    for problem in palette_problems(colours):
        raise DatasetError(problem)
    complete = replace(index, samples=tuple(samples))
    save_samples(Folder(folder).samples, complete)
    return complete

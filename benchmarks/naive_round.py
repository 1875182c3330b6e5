"""Writes the maps of a naive next round: one student, trained on all masks, annotates every image (docs/results.md).

python benchmarks/naive_round.py NEXT_ROUND OUT [NAME=VALUE ...], then calibrate the last round's run file with
annotate.annotator=maps annotate.maps.folder=OUT and another name.
"""

import sys
from pathlib import Path

import numpy as np

from pipeline.datasets import image_to_grid
from pipeline.overrides import parse_overrides
from pipeline.rounds.base import base_run
from pipeline.run_file import load_settings
from train.annotator import StudentAnnotator


def write_maps(next_round: str, out: Path, overrides: list[str]) -> None:
    """Write OUT/ID.npy, float16 [K, h, w], of every labeled and unlabeled image of the last round."""
    settings = load_settings(next_round, parse_overrides(overrides))
    assert settings.annotate.student is not None
    base = base_run(settings, settings.annotate.student)
    index = base.samples()
    samples = index.of("labeled", "unlabeled")
    student = base.folder.student("stage2")
    one = StudentAnnotator("naive", [student], {s.id: 0 for s in samples}, base.settings, keeps_size=False)
    out.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        image = image_to_grid(index.image(sample), settings.data.grid)
        maps = one(image[np.newaxis], [sample.id])[0]
        np.save(out / f"{sample.id}.npy", (maps / maps.sum(axis=0)).astype(np.float16))


if __name__ == "__main__":
    write_maps(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

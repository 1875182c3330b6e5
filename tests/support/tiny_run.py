"""A tiny run on disk: random images with masks, and a run file for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.workflow import SNAKEFILE

CLASSES = ["background", "cat", "dog"]
UNTRAINED = {"stage1.epochs": 0, "stage2.epochs": 0}  # timing steps takes seconds; tests/pipeline/doctor/test_steps.py


def write_sample_files(
    root: Path,
    ids: Sequence[str],
    *,
    size: tuple[int, int] = (24, 32),
    masked: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Random images/ID.png for every id and masks/ID.png (values 0..2 and 255) for those in `masked` (default: all)."""
    height, width = size
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for position, sample_id in enumerate(ids):
        rng = np.random.default_rng([seed, position])
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"images/{sample_id}.png")
        if masked is None or sample_id in masked:
            mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
            Image.fromarray(mask).save(root / f"masks/{sample_id}.png")


def write_run_file(folder: Path, **sections: Any) -> Path:
    """A run file for the images of `write_sample_files`, annotated by `tests/support/noisy_annotator.py`.

    The folder also gets our Snakefile, so that commands are printed in it as in a clone.
    """
    if not (folder / "Snakefile").exists():
        (folder / "Snakefile").symlink_to(SNAKEFILE)
    tree = {
        "results": str(folder / "results"),
        "data": {
            "root": str(folder / "data"),
            "classes": CLASSES,
            "background": "background",
            "grid": [16, 24],
            "splits": {"num_labeled": 6, "num_val": 2},
        },
        "annotate": {
            "annotator": "python",
            "python": {"factory": "noisy_annotator:build"},
            "class_check": "warn",  # its maps are noise
            "batch_size": 2,
        },
        "calibrate": {"alpha": 0.2},
        "pseudolabel": {"rule": "paper"},
        "train": {"student": "tiny", "crop": 32, "workers": 0, "total_epochs": 3},
        "stage1": {"batch_size": 2},
        "stage2": {"batch_labeled": 1, "batch_unlabeled": 1},
        "gallery": {"in_report": False},
    } | sections
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path

"""All that the results of a tiny run depend on, and the files that say so: images, masks and a run file."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tiny_run import write_run_file

SIDE = 16
SETTINGS = {
    "decimals": (1, 2),  # another annotator
    "alpha": (0.5, 0.4),
    "rule": ("paper", "argmax"),
    "variant": ("pixel", "image"),
    "seed": (0, 1),  # of the splits
    "lr": (0.02, 0.05),
}


class Inputs(NamedTuple):
    """All that the results of a run depend on. images, masks: id -> number of the picture"""

    images: tuple[tuple[str, int], ...]
    masks: tuple[tuple[str, int], ...]
    settings: tuple[Any, ...]

    def changed(self, name: str) -> "Inputs":
        """With the other value of a setting."""
        values = dict(zip(SETTINGS, self.settings, strict=True))
        values[name] = next(value for value in SETTINGS[name] if value != values[name])
        return self._replace(settings=tuple(values.values()))

    def with_setting_of(self, name: str, other: "Inputs") -> "Inputs":
        """With the value that a setting has in others."""
        number = list(SETTINGS).index(name)
        return self._replace(settings=(*self.settings[:number], other.settings[number], *self.settings[number + 1 :]))


def first_inputs() -> Inputs:
    """Five images with masks, and the first value of every setting."""
    images = tuple((f"im{i}", i) for i in range(5))
    return Inputs(images, tuple((one, 50 + i) for one, i in images), tuple(of[0] for of in SETTINGS.values()))


def write_inputs(folder: Path, inputs: Inputs, num_parts: int = 1, bucket: Path | None = None) -> Path:
    """Write images, masks and the run file; returns the latter. A file that is there already stays as it is.

    num_parts: parts of the images that are annotated by jobs of their own
    bucket:    folder of an object store behind the maps that runs share; None without one
    """
    for kind, numbers in (("images", inputs.images), ("masks", inputs.masks)):
        (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
        for sample_id, number in numbers:
            path = folder / f"data/{kind}/{sample_id}.png"
            if not path.exists():
                write_picture(path, number)
    decimals, alpha, rule_name, variant, seed, lr = inputs.settings
    arguments = {"decimals": decimals, "log": str(folder / "calls")}
    return write_run_file(
        folder,
        **({} if bucket is None else {"cache": f"file://{bucket}"}),
        data={
            "root": str(folder / "data"),
            "classes": ["background", "cat", "dog"],
            "background": "background",
            "grid": [8, 8],
            "splits": {"num_labeled": 2, "num_val": 1, "seed": seed},
        },
        annotate={
            "annotator": "python",
            "python": {"factory": "noisy_annotator:build", "arguments": arguments},
            "class_check": "warn",
            "batch_size": 2,
            "shards": num_parts,
        },
        calibrate={"alpha": alpha, "variant": variant},
        pseudolabel={"rule": rule_name},
        train={
            "student": "tiny", "crop": 32, "lr": lr, "checkpoint_minutes": 0, "workers": 0, "threads": 1,
            "device": "cpu",
        },
        stage1={"epochs": 1, "batch_size": 2},
        stage2={"epochs": 0, "batch_labeled": 1, "batch_unlabeled": 1},
        compute={"workers": 1},
    )  # fmt: skip


def write_picture(path: Path, number: int) -> None:
    """A random image, or the mask of one, written as another file beside it."""
    rng = np.random.default_rng(number)
    if path.parent.name == "masks":
        values = rng.choice(np.array([0, 1, 2, 255], np.uint8), (SIDE, SIDE))
    else:
        values = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    part = path.with_suffix(".part.png")
    Image.fromarray(values).save(part)
    part.replace(path)

"""A small run whose scenes can be learnt: bright squares (one class) and discs (another) on a dark floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from receipts import facts_of

from calib import Planes, abstained_by_size, observe, pack_sets
from pipeline.datasets import Sample, SampleIndex, resize_nearest, save_samples
from pipeline.files import file_digest
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE, FAILED, OUTCOMES, create_store, open_labels

CLASSES = ["floor", "square", "disc"]
GRID = (40, 48)
SIZES = [(64, 64), (56, 72)]
LABELS_FINGERPRINT = "1abe15"


def draw_scene(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] image and uint8 [H, W] mask with a square and a disc."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, np.uint8)
    y, x = rng.integers(8, 24, 2)
    mask[y : y + 20, x : x + 20] = 1
    y, x = rng.integers(20, np.array(size) - 12)
    mask[(rows - y) ** 2 + (columns - x) ** 2 < 100] = 2
    colors = np.array([[40, 60, 80], [220, 180, 40], [60, 200, 120]])
    image = colors[mask] + rng.normal(0, 12, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_images(root: Path, num: dict[str, int]) -> SampleIndex:
    """Images of all splits below `root`; where the mask of an unlabeled one would be lies a file that is none."""
    samples = []
    for split, count in num.items():
        for i in range(count):
            seed, size = len(samples), SIZES[i % len(SIZES)]
            image, mask = draw_scene(seed, size)
            sample_id = f"{split}_{i:02d}"
            image_path, mask_path = root / f"{sample_id}.png", root / f"{sample_id}_mask.png"
            Image.fromarray(image).save(image_path)
            sample = Sample(sample_id, image_path.name, None, split, *size, file_digest(image_path))
            if split == "unlabeled":
                mask_path.write_text("a mask that nobody may open")
            else:
                Image.fromarray(mask).save(mask_path)
                sample = replace(sample, mask=mask_path.name, mask_digest=file_digest(mask_path))
            samples.append(sample)
    return SampleIndex(root, tuple(samples))


def pseudo_label(seed: int, size: tuple[int, int]) -> np.ndarray:
    """float32 GRID: what scene `seed` shows, with a tenth of the pixels abstaining."""
    _, mask = draw_scene(seed, size)
    label = resize_nearest(mask, GRID).astype(np.float32)
    label[np.random.default_rng(seed).random(GRID) < 0.1] = np.nan
    return label


def prediction_sets(seed: int, size: tuple[int, int]) -> np.ndarray:
    """bool [K, *GRID]: what scene `seed` shows and, in most pixels, the class after it."""
    _, mask = draw_scene(seed, size)
    true = resize_nearest(mask, GRID)
    sets = np.arange(len(CLASSES))[:, np.newaxis, np.newaxis] == true
    return sets | (np.roll(sets, 1, axis=0) & (np.random.default_rng([seed, 1]).random(GRID) < 0.8))


def write_labels(settings: Settings, index: SampleIndex, failed: tuple[int, ...] = ()) -> None:
    """labels.zarr and its receipt, as the pseudolabel stage leaves them; `failed` images have no label.

    With `pseudolabel.keep_sets` it has the sets of `prediction_sets`.
    """
    path, unlabeled = Run(settings).folder.labels, index.of("unlabeled")
    facts = {"fingerprint": LABELS_FINGERPRINT, "class_names": CLASSES, "background": 0, "rule": "paper"}
    facts |= {"grid": list(GRID), "alphas": [0.1]}
    has_sets = settings.pseudolabel.keep_sets
    create_store(path, "labels", facts | ({"keep_sets": True} if has_sets else {}), unlabeled)
    store = open_labels(path, writable=True)
    for i, sample in enumerate(unlabeled):
        if i in failed:
            store.mark(i, FAILED)
            continue
        scene = index.samples.index(sample), (sample.height, sample.width)
        label = pseudo_label(*scene)
        sets = pack_sets(prediction_sets(*scene)) if has_sets else None
        zeros = np.zeros(GRID, np.float32)
        planes = Planes(zeros.astype(np.uint8), zeros, zeros, zeros)
        store.write(i, label[np.newaxis], planes, sets)
        counts = {"pixels": label.size, "kept": int((~np.isnan(label)).sum())}
        outcomes = np.array([counts.get(name, 0) for name in OUTCOMES], np.int32)
        abstained = None if sets is None else abstained_by_size(sets, label, len(CLASSES)).astype(np.int32)
        store.write_counts(i, outcomes, np.zeros(len(CLASSES), np.int32), abstained)
        store.write_observed(i, observe(planes, 0, len(CLASSES)))
        store.mark(i, DONE)
    store.finish()
    Run(settings).finish("pseudolabel", facts_of("pseudolabel", fingerprint=LABELS_FINGERPRINT))


def settings_of(folder: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of a tiny run in `folder`/run; `sections` override single settings."""
    tree: dict[str, Any] = {
        "name": "run",
        "results": str(folder),
        "data": {"root": str(folder / "images"), "classes": CLASSES, "background": "floor", "grid": list(GRID)},
        "annotate": {"annotator": "python", "python": {"factory": "somewhere:build"}},
        "train": {"student": "tiny", "crop": 64, "lr": 0.02, "workers": 0, "threads": 1, "device": "cpu"},
        "stage1": {"epochs": 2, "batch_size": 2},
        "stage2": {"epochs": 2, "batch_labeled": 1, "batch_unlabeled": 1},
        "evaluate": {"num_examples": 2, "workers": 0},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    return Settings.model_validate(tree)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The machine may be busy; one thread is as fast on images this small, and the sums come out the same."""
    torch.set_num_threads(1)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Settings]:
    """Write images, samples.json and labels.zarr; returns the settings of the run."""

    def make(num: dict[str, int] | None = None, failed: tuple[int, ...] = (), **sections: dict[str, Any]) -> Settings:
        settings = settings_of(tmp_path, **sections)
        root = Path(settings.data.root)
        root.mkdir(exist_ok=True)
        index = write_images(root, num or {"labeled": 3, "unlabeled": 5, "val": 2})
        save_samples(settings.folder / "samples.json", index)
        Run(settings).finish("prepare", facts_of("prepare"))
        write_labels(settings, index, failed)
        return settings

    return make

"""The student that a run starts with, and how it is trained: for a CPU or for a GPU, and for images of this size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.doctor.grid import crop_of

CPU_CROP = 241  # side, pixels: a step of 8 takes less than half a second of a core
CPU_STEPS = 520  # of 8 images: some four minutes of a core
CPU_BATCH = 8
FEWEST_EPOCHS = 4
LONG_SIDE = (0.9, 2.1)  # of the resized images, in crops: from a little less than a crop to a wide choice of places
LARGEST_SCALE = 1.5
TESTED_AT = 0.8  # of the way from the smallest to the largest scale: whole images look smaller to it than crops


def has_cuda() -> bool:
    """Whether torch finds a CUDA device here."""
    import torch

    return bool(torch.cuda.is_available())


def recipe(
    sizes: npt.NDArray[np.int64],
    grid: Sequence[int] | None,
    num_trained: int,
    overrides: Mapping[str, Any],
    is_on_gpu: bool,
) -> dict[str, Any]:
    """Sections of settings, name -> value. Nothing in it is under a licence that forbids commercial use.

    sizes:       int64 [N, 2], heights and widths of the images
    num_trained: labeled and unlabeled images
    overrides:   what the user sets: with a preset, or a student of the user's own, the recipe is theirs
    """
    crop = {} if grid is None else {"crop": crop_of(grid)}
    if "train.student" in overrides:
        return {"train": crop}
    student = (
        {"student": "dinov2-s", "weights": "facebook/dinov2-small"}
        if is_on_gpu
        else {"student": "efficientnet-lite0", "weights": "imagenet"}
    )
    if overrides.get("preset") is not None:
        return {"train": student | crop}
    if is_on_gpu:
        fine_tuned = {"optimizer": "adamw", "lr": 5.0e-6, "head_lr_multiplier": 40.0, "weight_decay": 0.01}
        return {"train": student | crop | fine_tuned}
    crop = {name: min(side, CPU_CROP) for name, side in crop.items()}
    scale = fitting_scale(sizes, crop["crop"]) if crop else None
    tested_at = None if scale is None else round(scale[0] + TESTED_AT * (scale[1] - scale[0]), 2)
    return {
        "train": {
            **student,
            "frozen_stages": 4,
            "frozen_norms": True,
            **crop,
            **({} if scale is None else {"scale": scale}),
            "optimizer": "adamw",
            "lr": 0.0003,
            "weight_decay": 0.01,
            "total_epochs": max(FEWEST_EPOCHS, round(CPU_STEPS * CPU_BATCH / max(num_trained, 1))),
            "validate_every": 8,
        },
        "stage1": {"batch_size": CPU_BATCH, "strong": False},
        "stage2": {"batch_labeled": 4, "batch_unlabeled": 4, "strong_labeled": False},
        **({} if tested_at is None or tested_at > 0.95 else {"evaluate": {"scales": [tested_at]}}),
    }


def fitting_scale(sizes: npt.NDArray[np.int64], crop: int) -> list[float]:
    """`train.scale` at which the long side of an image of the middle size is 0.9 to 2.1 crops."""
    long_side = float(np.median(sizes.max(axis=1)))
    low, high = (min(LARGEST_SCALE, times * crop / long_side) for times in LONG_SIDE)
    return [max(0.01, round(low, 2)), max(0.02, round(high, 2))]

"""The student and the training settings of a new run, chosen by the device (CPU or GPU) and the size of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.doctor.grid import crop_of

CPU_CROP = 241  # pixels; a step of 8 crops takes less than half a second on one core
CPU_STEPS = 520  # of 8 images: about four minutes on one core
CPU_BATCH = 8
MIN_EPOCHS = 4
LONG_SIDE = (0.9, 2.1)  # of the resized images, in crops: slightly less than one crop, to many possible crops
MAX_SCALE = 1.5
EVALUATION_SCALE = 0.8  # of the way from the smallest to the largest training scale: objects look larger in crops


def has_cuda() -> bool:
    """Whether torch finds a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def recipe(
    sizes: npt.NDArray[np.int64],
    grid: Sequence[int] | None,
    num_trained: int,
    overrides: Mapping[str, Any],
    is_on_gpu: bool,
) -> dict[str, Any]:
    """Training settings by section and name. The licence of every chosen network permits commercial use.

    sizes:       int64 [N, 2], heights and widths of the images
    grid:        height and width of the maps; None if no image size is known
    num_trained: number of labeled and unlabeled images
    overrides:   settings of the user; with a preset or a student of the user, fewer settings are chosen here
    is_on_gpu:   whether training runs on a CUDA device
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
    evaluated_at = None if scale is None else round(scale[0] + EVALUATION_SCALE * (scale[1] - scale[0]), 2)
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
            "total_epochs": max(MIN_EPOCHS, round(CPU_STEPS * CPU_BATCH / max(num_trained, 1))),
            "validate_every": 8,
        },
        "stage1": {"batch_size": CPU_BATCH, "strong": False},
        "stage2": {"batch_labeled": 4, "batch_unlabeled": 4, "strong_labeled": False},
        **({} if evaluated_at is None or evaluated_at > 0.95 else {"evaluate": {"scales": [evaluated_at]}}),
    }


def fitting_scale(sizes: npt.NDArray[np.int64], crop: int) -> list[float]:
    """Range of `train.scale` at which the long side of an image of median size is 0.9 to 2.1 crops."""
    long_side = float(np.median(sizes.max(axis=1)))
    low, high = (min(MAX_SCALE, times * crop / long_side) for times in LONG_SIDE)
    return [max(0.01, round(low, 2)), max(0.02, round(high, 2))]

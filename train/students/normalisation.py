"""Reads and writes preprocessor_config.json of a student: mean and standard deviation of its pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import TrainingError
from pipeline.files import read_json
from train.students.network import Network

FILE = "preprocessor_config.json"


def save_normalisation(network: Network, folder: Path) -> None:
    """Write the same file as SegformerImageProcessorPil(do_resize=False) of transformers."""
    content = {
        "do_normalize": True,
        "do_reduce_labels": False,
        "do_rescale": True,
        "do_resize": False,
        "image_mean": list(network.mean),
        "image_processor_type": "SegformerImageProcessor",
        "image_std": list(network.std),
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 512, "width": 512},
    }
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def normalisation_of(folder: Path, network: Network) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels, for RGB in [0, 1]: those of a folder, or the network's defaults.

    raises: TrainingError for a network with another order of channels
    """
    path = folder / FILE
    if not path.is_file():
        return list(network.mean), list(network.std)
    content: dict[str, Any] = read_json(path)
    if content.get("do_flip_channel_order"):
        raise TrainingError(
            f"{path} has do_flip_channel_order (BGR), but students get RGB; set train.weights or train.student to a "
            "network that was trained on RGB"
        )
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    to_unit = 255 * factor  # a pixel of RGB in [0, 1] times this is what the network's mean and deviation refer to
    mean: Sequence[float] = [0.0] * 3
    std: Sequence[float] = [1.0] * 3
    if content.get("do_normalize", True):
        mean, std = content.get("image_mean") or network.mean, content.get("image_std") or network.std
    return [value / to_unit for value in mean], [value / to_unit for value in std]

"""preprocessor_config.json of a student: mean and standard deviation of its pixels."""

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
    """Write what SegformerImageProcessorPil(do_resize=False) of transformers writes."""
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
    """Mean and standard deviation of RGB in [0, 1] that a folder's preprocessor_config.json names; else the network's.

    raises: TrainingError for a network that wants its channels in another order
    """
    path = folder / FILE
    if not path.is_file():
        return list(network.mean), list(network.std)
    named: dict[str, Any] = read_json(path)
    if named.get("do_flip_channel_order"):
        raise TrainingError(
            f"{path} asks for channels in the order BGR (do_flip_channel_order), which students do not have; take a "
            "network that was trained on RGB"
        )
    rescaled = named.get("rescale_factor", 1 / 255) if named.get("do_rescale", True) else 1.0
    to_unit = 255 * rescaled  # what the network calls 1 is this in RGB in [0, 1]
    mean: Sequence[float] = [0.0] * 3
    std: Sequence[float] = [1.0] * 3
    if named.get("do_normalize", True):
        mean, std = named.get("image_mean") or network.mean, named.get("image_std") or network.std
    return [value / to_unit for value in mean], [value / to_unit for value in std]

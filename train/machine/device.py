"""The device and the precision of the student."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pipeline.errors import TrainingError
from pipeline.settings import TrainSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Compute(NamedTuple):
    """A device and its autocast type; float32 means no autocast."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """A new autocast context; each forward pass needs its own.

        The context caches cast weights. Weights cast without a gradient (Stage II labels images before it trains) must
        not be reused in a pass with a gradient.
        """
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def compute_of(settings: TrainSettings) -> Compute:
    """The device and precision that the settings name; also sets the number of torch threads.

    raises: TrainingError if the settings name a GPU that does not exist
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = _device(settings.device)
    return Compute(device, _automatic_dtype(device) if settings.precision == "auto" else DTYPES[settings.precision])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise TrainingError(f"train.device is {name}, but torch finds {num_gpus} CUDA devices; set it to auto or cpu")
    return device


def _automatic_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

"""Where and in which precision the student runs."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pipeline.errors import TrainingError
from pipeline.settings import TrainSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Compute(NamedTuple):
    """A device and the autocast type; float32 means no autocast."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """A fresh context: its cache of cast weights must not outlive one forward pass.

        Weights cast without a gradient (Stage II labels before it trains) would otherwise be reused with one.
        """
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def compute_of(settings: TrainSettings) -> Compute:
    """Device and precision that the settings ask for; also sets torch's threads. TrainingError if there is no GPU."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = _device(settings.device)
    return Compute(device, _automatic_dtype(device) if settings.precision == "auto" else DTYPES[settings.precision])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise TrainingError(f"train.device is {name}, but torch finds {found} CUDA devices; use auto or cpu")
    return device


def _automatic_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

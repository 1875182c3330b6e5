"""The device and the precision of the student."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pipeline.devices import device_of
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

    raises: ConfigError if the settings name a GPU that does not exist
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = torch.device(device_of("train", settings.device))
    return Compute(device, _automatic_dtype(device) if settings.precision == "auto" else DTYPES[settings.precision])


def _automatic_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

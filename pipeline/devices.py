"""The device of torch that a setting names."""

from __future__ import annotations

from pipeline.errors import ConfigError


def device_of(section: str, name: str) -> str:
    """Torch's name of the device of a setting `device`: auto is CUDA if it is available.

    section: of the settings, to name it in an error
    raises:  ConfigError for a CUDA device that does not exist
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    num_devices = torch.cuda.device_count()
    if int(name.partition(":")[2] or 0) >= num_devices:
        raise ConfigError(
            f"{section}.device is {name}, but torch finds {num_devices} CUDA devices; set {section}.device to auto or "
            "cpu, or install a torch build for your GPU"
        )
    return name

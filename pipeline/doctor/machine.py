"""Findings about the machine: versions and devices."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

from pipeline.doctor.findings import Finding
from pipeline.receipt import PACKAGES
from pipeline.settings import AnnotateSettings, Settings, of_member


def machine_findings(settings: Settings) -> list[Finding]:
    """Versions and devices, and an error for CUDA devices that the settings name but torch does not find."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return [
        *missing_devices(chosen_devices(settings), len(devices)),
        Finding("note", f"versions: Python {platform.python_version()}, {packages}"),
        Finding("note", f"device: {', '.join(devices) or 'no CUDA device'}; {processor()}, {os.cpu_count()} cores"),
    ]


def chosen_devices(settings: Settings) -> dict[str, str]:
    """Device by full name of the setting that chooses it."""
    devices = {"compute.device": settings.compute.device, "train.device": settings.train.device}
    devices |= _devices_of(settings.annotate)
    for name, one in settings.members.items():
        devices |= {of_member(setting, name): device for setting, device in _devices_of(one.annotate).items()}
    return devices


def _devices_of(chosen: AnnotateSettings) -> dict[str, str]:
    section = {"seem": chosen.seem, "transformers": chosen.transformers}.get(chosen.annotator)
    return {} if section is None else {f"annotate.{chosen.annotator}.device": section.device}


def missing_devices(devices: dict[str, str], num_devices: int) -> Iterator[Finding]:
    """An error for CUDA devices that a setting names but torch does not find.

    devices:     device by full name of its setting
    num_devices: number of CUDA devices that torch finds
    """
    missing = tuple(
        f"{setting}: {device}"
        for setting, device in devices.items()
        if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= num_devices
    )
    if missing:
        what = f"torch finds {num_devices} CUDA devices, but the settings name others"
        yield Finding("error", what, missing, "set them to auto or cpu, or install a torch build for your GPU")


def processor() -> str:
    """Name of the CPU, from /proc/cpuinfo or the platform."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()

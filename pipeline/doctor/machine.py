"""Findings about the machine: versions, devices, memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version

from pipeline.doctor.findings import Finding
from pipeline.receipt import PACKAGES
from pipeline.settings import Settings


def machine_findings(settings: Settings) -> list[Finding]:
    """What the run would compute with, and devices that it asks for and that are not there."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return [
        *missing_devices(asked_devices(settings), len(devices)),
        Finding("note", f"versions: Python {platform.python_version()}, {packages}"),
        Finding("note", f"device: {', '.join(devices) or 'no CUDA device'}; {processor()}, {os.cpu_count()} cores"),
    ]


def asked_devices(settings: Settings) -> dict[str, str]:
    """Setting -> device, of everything that chooses one."""
    asked = {"train.device": settings.train.device}
    if settings.annotate.annotator == "seem" and settings.annotate.seem is not None:
        asked["annotate.seem.device"] = settings.annotate.seem.device
    return asked


def missing_devices(asked: dict[str, str], num_devices: int) -> Iterator[Finding]:
    """CUDA devices that a setting names by number, but torch does not find."""
    missing = tuple(
        f"{setting}: {device}"
        for setting, device in asked.items()
        if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= num_devices
    )
    if missing:
        what = f"torch finds {num_devices} CUDA devices, fewer than the settings ask for"
        yield Finding("error", what, missing, "use auto or cpu, or install a torch build for your GPU")


def processor() -> str:
    """The CPU's name, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()

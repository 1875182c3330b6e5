"""The state of an unfinished or finished stage on disk, written atomically."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import first_line
from pipeline.files import replacing

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; a process killed meanwhile leaves the previous checkpoint as it was."""
    with replacing(path) as part:
        torch.save(content, part)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, on the CPU; None if there is none or it cannot be read (the log says so)."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        log.warning("%s is unreadable (%s)", path, first_line(error))
        return None
    return content

"""Checkpoints: the state of an unfinished or finished stage on disk, written atomically."""

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
    """Write tensors and plain values; if the process is killed meanwhile, the previous checkpoint is unchanged."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote, with tensors on the CPU.

    returns: None if the file does not exist; also if it cannot be read, with a warning in the log
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        log.warning("%s is unreadable (%s)", path, first_line(error))
        return None
    return content

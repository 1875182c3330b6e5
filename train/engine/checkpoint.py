"""Checkpoints: the state of an unfinished or finished stage on disk, written atomically, with a digest of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.digests import add_own_digest, has_own_digest, is_without_digest
from pipeline.errors import TrainingError
from pipeline.files import replacing


class CheckpointError(TrainingError):
    """A checkpoint that is damaged, or of an earlier version."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; if the process is killed meanwhile, the previous checkpoint is unchanged.

    The file is one of `torch.save`, a zip file, whose comment is the SHA-256 of what comes before it.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as file:  # given a path, torch reports a full disk as an unexpected position
            torch.save(content, file)
        add_own_digest(temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote, with tensors on the CPU.

    returns: None if the file does not exist
    raises:  CheckpointError if a byte differs from what was written, and for a file of an earlier version
    """
    if not path.is_file():
        return None
    if not has_own_digest(path):
        if is_without_digest(path):
            raise CheckpointError(f"{path} was written by an earlier version of conformalsam, which gave it no SHA-256")
        raise CheckpointError(f"{path} is damaged: it does not match the SHA-256 at its end")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content

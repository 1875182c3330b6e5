"""Converts a published SEEM checkpoint into a folder in the format of transformers."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from pipeline.errors import AnnotatorError
from pipeline.files import replacing_folder

log = logging.getLogger(__name__)


def convert_seem(checkpoint: Path, folder: Path, tokenizer: Path | None = None) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files. `folder` appears only when it is complete.

    checkpoint: a published `seem_*.pt`
    tokenizer:  folder with CLIP's tokenizer; default: `tokenizer` beside the checkpoint, where `download` puts it
    returns:    `folder`
    raises:     AnnotatorError if the checkpoint or the tokenizer cannot be used, or if `folder` is not empty or cannot
                be written
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AnnotatorError(
            f"{folder} exists and is not empty; remove it (rm -r {shlex.quote(str(folder))}) or name another folder"
        )
    if not checkpoint.is_file():
        raise AnnotatorError(f"no checkpoint {checkpoint}; get one with: conformalsam download seem-focall-v0")
    from pipeline.seem import Seem, SeemError  # with torch, which takes seconds
    from pipeline.seem.checkpoint import read_weights, unused_names, variant_name

    log.info("convert-seem: reading %s", checkpoint)
    try:
        weights = read_weights(checkpoint)
        seem = Seem.from_checkpoint(checkpoint, tokenizer or checkpoint.parent / "tokenizer")
    except SeemError as error:
        raise AnnotatorError(str(error)) from None
    unused = unused_names(weights)
    sha256 = seem.config.source_sha256
    log.info("convert-seem: %s, sha256 %s (%s)", variant_name(seem.config), sha256, _origin(sha256))
    log.info("convert-seem: left out %d tensors used only for clicks and training: %s", len(unused), ", ".join(unused))
    try:
        with replacing_folder(folder) as part:
            seem.save_pretrained(part)
    except OSError as error:
        raise AnnotatorError(f"{folder} cannot be written: {error}; free disk space or name another folder") from None
    return folder


def _origin(sha256: str) -> str:
    """Name of the published file with this sha256, as text for the log."""
    from pipeline.annotators.download import CHECKPOINTS

    names = [name for name, published in CHECKPOINTS.items() if published.sha256 == sha256]
    return f"{names[0]} as published" if names else "none of the published files"

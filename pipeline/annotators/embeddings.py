"""Text embeddings on disk, so that prompts are embedded once for all stages and runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotators.contract import Maps
from pipeline.files import remove_leftovers, replacing
from pipeline.receipt import fingerprint

log = logging.getLogger(__name__)


def cached_embeddings(
    cache: Path, facts: Mapping[str, Any], names: Sequence[str], embed: Callable[[Sequence[str]], Maps]
) -> dict[str, Maps]:
    """Embeddings of names, float32 [D] by name: read from the folder `cache`, or computed and written there.

    facts: everything else that the embeddings depend on, as JSON types
    embed: names -> embeddings, float32 [N, D]
    """
    path = cache / f"{fingerprint({**facts, 'names': list(names)})}.npz"
    stored = read_embeddings(path, names)
    if any(name not in stored for name in names):
        embeddings = embed(names)
        write_embeddings(path, names, embeddings)
        stored = dict(zip(names, embeddings, strict=True))
    return stored


def read_embeddings(path: Path, names: Sequence[str]) -> dict[str, Maps]:
    """Text embeddings from a file, by name: float32 [D] each. {} if the file is missing, damaged or of other names."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            same_names = stored["names"].tolist() == list(names)
            return dict(zip(names, stored["embeddings"], strict=True)) if same_names else {}
    except Exception as error:  # zipfile, zlib and numpy raise exceptions of their own
        log.warning("annotate: %s is damaged (%s); embedding the class names again", path, error)
        return {}


def write_embeddings(path: Path, names: Sequence[str], embeddings: Maps) -> None:
    """Write embeddings float32 [N, D] and their N names atomically."""
    remove_leftovers(path.parent, of=path.name)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, names=np.array(names), embeddings=embeddings)

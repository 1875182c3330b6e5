"""Digests of the files of a run, without what differs between two undisturbed runs: times, logs, locks and commands."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.files import read_json

VARYING = {"seconds", "data_wait", "config", "cache", "inputs", "sha256", "checkpoint.pt"}
"""Entries that differ. config: words of a command; cache: maps that were there already; inputs,
sha256, checkpoint.pt: digests of texts with times"""
LEFT_OUT = (".locks", "logs", "tensorboard")
MARKS = ".finished"  # ending of Snakemake's marks


def contents(folder: Path) -> dict[str, str]:
    """Path in the folder -> digest of the content. Temporary files of a killed process are included."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not set(name.parts) & set(LEFT_OUT) and name.suffix != MARKS:
            digests[str(name)] = _digest(path)
    return digests


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Paths whose digests differ, or that exist in only one of the two."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _digest(path: Path) -> str:
    if path.suffix == ".json" and b'\n "sha256": "' in path.read_bytes()[-90:]:  # a record
        return _hex(json.dumps(_without_varying(read_json(path)), sort_keys=True).encode())
    if path.suffix == ".pt":
        import torch

        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        return _hex(*_parts(_without_varying(content)))
    if path.suffix == ".zip":  # its entries have times
        with zipfile.ZipFile(path) as archive:
            return _hex(*(part for name in sorted(archive.namelist()) for part in (name.encode(), archive.read(name))))
    return _hex(path.read_bytes())


def _hex(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _without_varying(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_varying(value) for key, value in content.items() if key not in VARYING}
    if isinstance(content, list | tuple):
        return [_without_varying(value) for value in content]
    return content


def _parts(content: Any) -> Iterator[bytes]:
    """Bytes that identify plain values and tensors."""
    import torch

    if isinstance(content, torch.Tensor):
        yield repr((content.dtype, tuple(content.shape))).encode()
        yield content.contiguous().view(torch.uint8).numpy().tobytes() if content.ndim else repr(content).encode()
    elif isinstance(content, dict):
        for key, value in content.items():
            yield repr(key).encode()
            yield from _parts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _parts(value)
    else:
        yield repr(content).encode()

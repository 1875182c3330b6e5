"""The files of an ONNX network: the model, and the files beside it that hold its large tensors.

The model is walked as a protocol buffer, as far as tensors can stand in it, so that `onnx` need not be installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.errors import AnnotatorError

CHUNK = 1 << 20  # bytes that are hashed at once
MAX_DEPTH = 64  # of nested graphs
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # wire types

TENSOR, SPARSE, ATTRIBUTE, NODE = "tensor", "sparse", "attribute", "node"
GRAPH, FUNCTION, MODEL = "graph", "function", "model"
INSIDE: Mapping[str, Mapping[int, str]] = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
"""Message -> number of a field -> the message that it holds, in the schema of ONNX."""
EXTERNAL_DATA, KEY, VALUE = 13, 1, 2  # fields of a tensor, and of an entry of its external data


class Field(NamedTuple):
    """A field of a message that holds bytes: its number and content."""

    number: int
    content: memoryview


def files_of(path: Path) -> list[Path]:
    """The model and its files of external data, sorted by name.

    raises: AnnotatorError for a model that is malformed, or whose external data is outside its folder or missing
    """
    try:
        names = sorted(set(_locations(MODEL, memoryview(path.read_bytes()))))
    except (ValueError, IndexError) as error:
        raise AnnotatorError(
            f"{path} is not a network that onnxruntime can run: it is malformed ({error}); export it again, or correct "
            "annotate.onnx.model"
        ) from None
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
            raise AnnotatorError(
                f"{path} takes tensors from {name!r}, which is outside its folder; export it again with its data "
                "beside it"
            )
        if not (path.parent / name).is_file():
            raise AnnotatorError(f"{path} takes tensors from {path.parent / name}, which does not exist; copy it there")
    return [path, *(path.parent / name for name in names)]


def digest_of(files: list[Path], settings: bytes) -> str:
    """SHA-256, 64 hex digits, of a model, its external data, and settings."""
    model, *others = files
    digest = hashlib.sha256(model.read_bytes() + settings)
    for file in others:
        digest.update(f"\0{file.relative_to(model.parent)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _locations(kind: str, message: memoryview, depth: int = 0) -> Iterator[str]:
    """Names of the files of external data in a message; ValueError or IndexError if it is malformed."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    for field in _fields(message):
        if kind == TENSOR and field.number == EXTERNAL_DATA:
            entry = {inner.number: bytes(inner.content) for inner in _fields(field.content)}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"").decode()
        elif field.number in INSIDE[kind]:
            yield from _locations(INSIDE[kind][field.number], field.content, depth + 1)


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message that hold bytes; the others are skipped."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == VARINT:
            _, position = _varint(message, position)
        elif wire_type in (EIGHT_BYTES, FOUR_BYTES):
            position += 8 if wire_type == EIGHT_BYTES else 4
        elif wire_type == BYTES:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("a field ends behind its message")
            yield Field(tag >> 3, message[position : position + length])
            position += length
        else:
            raise ValueError(f"wire type {wire_type}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and the position behind it."""
    number = shift = 0
    while True:
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")

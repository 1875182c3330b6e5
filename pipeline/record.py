"""Records: the JSON files of a run that later steps read. Each ends with the SHA-256 of the text before it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RecordError
from pipeline.files import json_text, write_text

T = TypeVar("T")

KEY = "sha256"


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with its digest, atomically; NaN and infinity become null. content: without the key "sha256"."""
    assert KEY not in content
    text = json_text({**content, KEY: "0" * 64}).encode()
    head = text[: -len(_end(b""))]
    write_text(path, (head + _end(head)).decode())


def read_record(path: Path, again: str, kind: Any = None) -> dict[str, Any]:
    """Content of a record, without its digest.

    again:  command that writes the file again, for the message
    kind:   TypedDict; its fields must exist and have their types, and further fields are allowed
    raises: RecordError if a byte of the file has changed, or a field is missing or has another type; OSError
    """
    text = _checked_bytes(path, again)
    if kind is not None:
        _parsed(kind, text, path, again)
    content: dict[str, Any] = json.loads(text)
    del content[KEY]
    return content


def read_record_as(kind: type[T], path: Path, again: str) -> T:
    """A record as an object of a dataclass; raises as `read_record`."""
    content: T = _parsed(kind, _checked_bytes(path, again), path, again)
    return content


def digest_in(path: Path) -> str | None:
    """The SHA-256 at the end of a record, without a check; None if the file does not exist or ends otherwise."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(_end(b""))))
            end = re.fullmatch(rb'\n "sha256": "([0-9a-f]{64})"\n}\n', file.read())
    except FileNotFoundError:
        return None
    return None if end is None else end[1].decode()


def is_whole(path: Path) -> bool:
    """Whether a record exists and no byte of it has changed since it was written."""
    return path.is_file() and _is_whole(path.read_bytes())


def _checked_bytes(path: Path, again: str) -> bytes:
    text = path.read_bytes()
    if _is_whole(text):
        return text
    if _has_no_digest(text):
        raise RecordError(
            f"{path} has no digest at its end: it was written by an earlier version of conformalsam, or edited by "
            f"hand; run {again}"
        )
    raise RecordError(
        f"{path} does not match the digest at its end: it is damaged, or was edited by hand; put it back as it "
        f"was, or run {again}"
    )


def _has_no_digest(text: bytes) -> bool:
    """Whether the file is a whole JSON object without a digest. A record that was cut off is no JSON."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and KEY not in content


def _is_whole(text: bytes) -> bool:
    head = text[: -len(_end(b""))]
    return text == head + _end(head)


def _end(head: bytes) -> bytes:
    """The last lines of a record, with the digest of the text before them."""
    return f'\n "{KEY}": "{hashlib.sha256(head).hexdigest()}"\n}}\n'.encode()


def _parsed(kind: Any, text: bytes, path: Path, again: str) -> Any:
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise RecordError(
            f"{path} was written by another version of conformalsam ({name}: {problem['msg']}); run {again}"
        ) from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)

"""SHA-256 of files: in a receipt, in a folder's SHA256SUMS, or, of a zip file, in its own comment."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.files import write_text

SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it
READ_BY_LOADERS = (".json", ".safetensors", ".bin", ".pt", ".pth")
COMMENT = b"sha256 "  # and 64 hex digits
COMMENT_SIZE = len(COMMENT) + 64
BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path relative to the folder -> SHA-256, sorted by path."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(files)}


def changed_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Those of the files, by path relative to the folder, that are missing or have another SHA-256."""
    return [
        name for name, digest in digests.items() if not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, which lists every other file of a folder."""
    found = digests_of(folder, (path for path in folder.iterdir() if path.is_file() and path.name != SUMS))
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in found.items()))


def unlisted_files(folder: Path) -> list[str]:
    """Names of files that are not as the folder's SHA256SUMS lists them; none of a folder that has no such file.

    A file that a loader would read counts if it is not listed, other files do not.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return []
    lines = [re.fullmatch(r"([0-9a-f]{64})  ([^\n]+)\n", line) for line in _text_of(sums).splitlines(keepends=True)]
    if not all(lines):
        return [SUMS]
    listed = {line[2]: line[1] for line in lines if line}
    read = {path.name for path in folder.iterdir() if path.suffix in READ_BY_LOADERS}
    return sorted({*changed_files(folder, listed), *(read - listed.keys())})


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("ascii", errors="replace")


def add_own_digest(path: Path) -> None:
    """Give a zip file without a comment the SHA-256 of all that comes before the comment as its comment."""
    with path.open("r+b") as file:
        file.seek(-2, 2)  # the length of the comment, 0 so far
        file.write(COMMENT_SIZE.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, 2)
        file.write(COMMENT + digest.encode())


def has_own_digest(path: Path) -> bool:
    """Whether a file has the comment that `add_own_digest` gave it, and is as it was then, to the byte."""
    left = path.stat().st_size - COMMENT_SIZE
    if left < 0:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(min(BLOCK, left)):
            digest.update(block)
            left -= len(block)
        return file.read() == COMMENT + digest.hexdigest().encode()


def is_without_digest(path: Path) -> bool:
    """Whether a file is a whole zip file without a comment."""
    try:
        with zipfile.ZipFile(path) as file:
            return not file.comment
    except zipfile.BadZipFile:
        return False

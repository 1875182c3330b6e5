"""Files: atomic writing, JSON, lists by file name ending, stamps and digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import DISK_PROBLEMS
from pipeline.lock import check_leases, is_running

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
TEMPORARY = re.compile(r"(?P<name>.+)\.part(?P<pid>\d+)-(?P<thread>\d+)", re.DOTALL)  # a file of `replacing`


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path of a new file beside `path`. At the end it replaces `path`; after an error it is removed.

    A reader sees the old file or the new one, never an incomplete one. The folder is created. A killed process leaves
    the new file, which `remove_leftovers` removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part{os.getpid()}-{threading.get_ident()}")
    try:
        yield part
        check_leases()
        os.replace(part, path)
    except OSError as error:
        if error.filename is None:  # of a write, unlike that of an open
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Path of a new folder beside `path`. At the end it replaces `path`; after an error it is removed.

    The caller creates the folder. The old folder is renamed before it is removed, so `path` is always whole. A killed
    process leaves `path`.part or the old folder, which the next call removes.
    """
    part, going = path.with_name(f"{path.name}.part"), going_of(path)
    for leftover in (part, going):
        remove_folder(leftover)
    try:
        yield part
        check_leases()
        with contextlib.suppress(FileNotFoundError):
            path.rename(going)
        part.rename(path)
        remove_folder(going)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_leftovers(folder: Path, of: str | None = None, below: bool = False) -> None:
    """Remove the temporary files of `replacing` that killed processes left in a folder.

    Those of a process that runs on this machine are kept.

    of:    name of the file that they would have become; default: of every file
    below: also those in sub-folders
    """
    for top, _, names in os.walk(folder):
        for name in names:
            part = TEMPORARY.fullmatch(name)
            if part and of in (None, part["name"]) and not _is_writing(int(part["pid"]), int(part["thread"])):
                Path(top, name).unlink(missing_ok=True)
        if not below:
            break


def _is_writing(pid: int, thread: int) -> bool:
    """Whether the writer of a temporary file is alive. After a restart of a container, this process may have its id."""
    if pid == os.getpid():
        return any(alive.ident == thread for alive in threading.enumerate())
    return is_running(pid)


def going_of(path: Path) -> Path:
    """Name of an old folder `path` from when another takes its place until it is removed."""
    return path.with_name(f"{path.name}.going")


def remove_folder(path: Path) -> None:
    """Remove a folder with everything in it, if it exists; raises OSError if something in it cannot be removed."""
    errors: list[OSError] = []

    def keep_with_path(_: object, below: str, problem: tuple[Any, BaseException, Any]) -> None:
        """Keep the error with its whole path; rmtree's own has the last name only."""
        error = problem[1]
        assert isinstance(error, OSError)
        if not isinstance(error, FileNotFoundError):
            errors.append(OSError(error.errno, error.strerror, below))

    shutil.rmtree(path, onerror=keep_with_path)  # an error raised in it would come back to it in Python 3.13
    if errors:
        raise errors[0]


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file; False for a name that no file can have.

    raises: OSError for a path that cannot be read, e.g. in a folder without permission; os.path.isfile returns False
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in DISK_PROBLEMS:
            raise
        return False
    except ValueError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 atomically, and remove what killed processes left of the same file."""
    remove_leftovers(path.parent, of=path.name)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity become null."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Indented JSON in ASCII; NaN and infinity become null."""
    return json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n"


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> Any:
    """Content of a JSON file in UTF-8; raises OSError, or ValueError if it is not JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def files_in(folder: Path, suffixes: Sequence[str], below: bool = False) -> list[Path]:
    """Files of a folder with one of the suffixes, in upper or lower case, sorted; [] if there is no folder.

    Hidden files and folders do not count, such as ._NAME, which a Mac writes beside NAME; nor does __MACOSX.

    below:  also those in sub-folders
    raises: OSError for a folder that cannot be read
    """
    found: list[str] = []
    for top, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if below and _is_visible(name)]
        found += [os.path.join(top, name) for name in names if _is_visible(name) and _suffix(name) in suffixes]
    return [Path(name) for name in sorted(found)]


def folders_in(folder: Path, suffix: str) -> list[Path]:
    """Folders in a folder with a suffix, in upper or lower case, sorted; hidden ones do not count.

    raises: OSError for a folder that cannot be read
    """
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return [folder / name for name in sorted(names) if _is_visible(name) and _suffix(name) == suffix]


def bytes_in(folder: Path) -> int:
    """Bytes of all files of a folder and its sub-folders; raises OSError for a folder that cannot be read."""
    tree = os.walk(folder, onerror=_refuse_unreadable)
    return sum(os.path.getsize(os.path.join(top, name)) for top, _, names in tree for name in names)


def _refuse_unreadable(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed, unless it does not exist."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def normal(text: str) -> str:
    """The text in Unicode's normal form C, so that names that look equal are equal. Macs use form D: é as e and ´."""
    return unicodedata.normalize("NFC", text)


def image_id(path: Path) -> str:
    """Id of the image or mask in a file: the name without its suffix, in normal form."""
    return normal(path.stem)


def existing(path: Path) -> Path:
    """The path as the disk spells it: a file or folder whose name is equal in normal form; else the path itself."""
    if str(path).isascii() or os.path.lexists(path) or path.parent == path:
        return path
    folder = existing(path.parent)
    spellings = (folder / unicodedata.normalize(form, path.name) for form in ("NFC", "NFD"))
    return next((spelling for spelling in spellings if os.path.lexists(spelling)), path)


Stamp = list[int]
"""Inode of a file; its size in bytes; mtime and ctime in ns since 1970. If all are equal, its content is unchanged."""


def stamp_of(status: os.stat_result) -> Stamp:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def read_with_stamp(path: Path) -> tuple[bytes, Stamp]:
    """Content of a file, and its stamp from before it was read; raises OSError."""
    with path.open("rb") as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        return file.read(), stamp


def digest_with_stamp(path: Path) -> tuple[str, Stamp]:
    """`content_digest` of a file, read in blocks, and its stamp from before; raises OSError."""
    with path.open("rb") as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        return hashlib.file_digest(file, _digest).hexdigest(), stamp


def file_digest(path: Path) -> str:
    """16 hex digits, `content_digest` of a file; raises OSError."""
    return digest_with_stamp(path)[0]


def content_digest(content: bytes) -> str:
    """16 hex digits: the BLAKE2b hash of 8 bytes."""
    return _digest(content).hexdigest()


def _digest(content: bytes = b"") -> hashlib.blake2b:
    return hashlib.blake2b(content, digest_size=8)

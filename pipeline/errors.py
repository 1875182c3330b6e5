"""Errors for users. Each is one line: what was found, where, what was expected, and what fixes it."""

import errno
import os
import shutil
from pathlib import Path


def first_line(error: Exception) -> str:
    """First line of a library's error message; the name of the error's type if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


DISK_PROBLEMS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EROFS: "make it writable, or write to another folder",
    errno.EACCES: "make it readable and writable for you, or write to another folder",
    errno.EPERM: "make it readable and writable for you, or write to another folder",
    errno.EIO: "check the disk or the connection to it",
    errno.ESTALE: "check the connection to the file server",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
}
"""Number of a system error -> what fixes it: states of a machine, for which no code is to blame."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_problem(error: BaseException | None, folder: Path | None = None) -> str | None:
    """One line about a disk that is full or cannot be written, if that is behind an error or its causes; else None.

    Libraries that are not written in Python report such an error by its text alone, and without the path.

    folder: where the files are written whose path is not known
    """
    if error is None:
        return None
    for number, fix in DISK_PROBLEMS.items():
        is_named = isinstance(error, OSError) and error.errno == number
        if is_named or (number in FULL and os.strerror(number) in str(error)):
            name = getattr(error, "filename", None)
            path = folder if name is None else Path(os.fsdecode(name))
            free = f" ({_free_space(path)})" if number in FULL and path is not None else ""
            problem = f"{_where(name, folder)}: {os.strerror(number)}{free}"
            return f"{problem}; {fix}, then run the same command again: finished work is kept"
    return disk_problem(error.__cause__ or error.__context__, folder)


def _where(name: str | bytes | None, folder: Path | None) -> str:
    if name is not None:
        return os.fsdecode(name)
    return f"a file {'' if folder is None else f'in {folder} '}could not be written"


def _free_space(path: Path) -> str:
    """How much space is free where a file or folder is or would be."""
    existing = next(one for one in (path, *path.absolute().parents) if one.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB free"


class UserError(Exception):
    """Base of every error that ends a command with exit code 1 and no traceback."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range, or contradicts another."""


class DiskError(UserError):
    """A disk that is full or broken, or a file or folder that cannot be read or written."""


class DatasetError(UserError):
    """Images, masks or id lists that cannot be used as they are."""


class ImageFileError(DatasetError):
    """The file of an image or a mask that cannot be read, has another format, or is too large."""


class UnreadableSourceError(DatasetError, OSError):
    """An image or a mask that `prepare` read and that cannot be read now: it is gone, or the file system fails."""


class StoreError(UserError):
    """A Zarr store that is missing, incomplete, damaged, or made by other settings."""


class RecordError(UserError):
    """A receipt, samples.json or another JSON file of a run that is damaged, edited, or of another version."""


class AnnotatorError(UserError):
    """An annotator that cannot be loaded, or that violates its contract."""


class TrainingError(UserError):
    """A student or checkpoint that cannot be loaded, or a training that failed."""


class StageError(UserError):
    """A stage that failed in a process of its own, and has printed why."""


class NetworkError(UserError):
    """A network in transformers format that is missing, damaged, changed, or cannot be loaded."""


class BucketError(UserError):
    """An object store that cannot be reached, or refuses to be read or written."""


class DownloadError(UserError):
    """Weights that cannot be downloaded, or that are not the published ones."""


class UploadError(UserError):
    """A folder that cannot be uploaded to the Hugging Face Hub. It stays on the disk, complete."""


class BusyError(UserError):
    """Something that another process writes or reads at the moment."""

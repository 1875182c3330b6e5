"""Errors for users. Each is one line: what was found, where, what was expected, and what fixes it."""

import errno
import os


def first_line(error: Exception) -> str:
    """First line of a library's error message; the name of the error's type if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


DISK_PROBLEMS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EROFS: "make it writable, or set `results` to another folder",
    errno.EACCES: "make it readable and writable for you, or set `results` to another folder",
    errno.EPERM: "make it readable and writable for you, or set `results` to another folder",
}
"""Number of a system error -> what fixes it: states of a disk, for which no code is to blame."""


def disk_problem(error: BaseException | None) -> str | None:
    """One line about a disk that is full or cannot be written, if that is behind an error or its causes; else None.

    Libraries that are not written in Python report such an error by its text alone.
    """
    if error is None:
        return None
    for number, fix in DISK_PROBLEMS.items():
        is_named = isinstance(error, OSError) and error.errno == number
        if is_named or (number in (errno.ENOSPC, errno.EDQUOT) and os.strerror(number) in str(error)):
            name = getattr(error, "filename", None)
            where = "a file could not be written" if name is None else str(name)
            return f"{where}: {os.strerror(number)}; {fix}, then run the same command again: finished work is kept"
    return disk_problem(error.__cause__ or error.__context__)


class UserError(Exception):
    """Base of every error that ends a command with exit code 1 and no traceback."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range, or contradicts another."""


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


class DownloadError(UserError):
    """Weights that cannot be downloaded, or that are not the published ones."""


class BusyError(UserError):
    """Something that another process writes or reads at the moment."""

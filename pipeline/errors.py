"""Errors for users. Each is one line: what was found, where, what was expected, and what fixes it."""

import errno


def first_line(error: Exception) -> str:
    """First line of a library's error message; the name of the error's type if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


DISK_PROBLEMS = {
    errno.ENOSPC: "free some space on its disk",
    errno.EDQUOT: "free some of your quota on its disk",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "make it readable and writable for you, or choose another folder",
    errno.EPERM: "make it readable and writable for you, or choose another folder",
}
"""Error number -> what helps. The disk is in a state that no code of ours can be blamed for."""


def disk_problem(error: OSError) -> str | None:
    """One line about a disk that is full or cannot be written; None for any other error."""
    if error.errno not in DISK_PROBLEMS:
        return None
    where = "a file" if error.filename is None else str(error.filename)
    what = f"{where}: {error.strerror}"
    return f"{what}; {DISK_PROBLEMS[error.errno]}, then run the same command again: nothing that was finished is lost"


class UserError(Exception):
    """Base of every error that ends a command with exit code 1 and no traceback."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range, or contradicts another."""


class DatasetError(UserError):
    """Images, masks or id lists that cannot be used as they are."""


class StoreError(UserError):
    """A Zarr store that is missing, incomplete, damaged, or made by other settings."""


class AnnotatorError(UserError):
    """An annotator that cannot be loaded, or that violates its contract."""


class TrainingError(UserError):
    """A student or checkpoint that cannot be loaded, or a training that failed."""


class DownloadError(UserError):
    """Weights that cannot be downloaded, or that are not the published ones."""


class BusyError(UserError):
    """Something that another process writes or reads at the moment."""

"""Errors for users. Each is one line: what was found, where, what was expected, and what fixes it."""


def first_line(error: Exception) -> str:
    """First line of a library's error message; the name of the error's type if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


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

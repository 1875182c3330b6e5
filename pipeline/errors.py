"""Errors meant for the user: one line that says what was found, where, what was expected and what to do next."""


def first_line(error: Exception) -> str:
    """The first line of an error of a library, the name of its type if it has no text."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


class UserError(Exception):
    """Base of every error that ends a command with exit code 1 and no traceback."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range, or at odds with another."""


class DatasetError(UserError):
    """Images, masks or id lists that cannot be used as they are."""


class StoreError(UserError):
    """A Zarr store that is missing, incomplete, damaged, or made by other settings."""


class AnnotatorError(UserError):
    """An annotator that cannot be loaded, or that does not keep its contract."""


class TrainingError(UserError):
    """A student or checkpoint that cannot be loaded, or a training run that broke down."""


class DownloadError(UserError):
    """Weights that cannot be fetched, or that are not the published ones."""

"""The error of SEEM for checkpoints, prompts and images that cannot be used."""


class SeemError(ValueError):
    """An error in one line: what was found, where, what was expected, what to do next."""

"""What can be wrong with a checkpoint, a prompt or an image that SEEM is given."""


class SeemError(ValueError):
    """One line: what was found, where, what was expected, what to do next."""

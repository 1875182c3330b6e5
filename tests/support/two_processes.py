"""Calls a function of a test module in two processes at once, whichever way pytest was started."""

import runpy
from typing import Any

from torch import multiprocessing


def call_in_two_processes(path: str, name: str, *arguments: Any) -> None:
    """`name`(rank, *arguments) of the module in a file, for rank 0 and 1; an error in one is raised here."""
    multiprocessing.spawn(_call, (path, name, arguments), nprocs=2)


def _call(rank: int, path: str, name: str, arguments: tuple[Any, ...]) -> None:
    runpy.run_path(path)[name](rank, *arguments)  # by its file: the module's name is known to pytest alone

"""Loops over pixels as machine code: `@compiled` hands a function to numba when it is called first.

Whole-array operations write every intermediate result to memory. A compiled loop keeps those of a pixel in registers,
and releases Python's global lock. numba is not allowed to reorder or to fuse operations, so the results are those of
the same code in Python, to the bit.
"""

import logging
import threading
from collections.abc import Callable
from functools import cache, update_wrapper
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_ONE_COMPILER = threading.Lock()


class compiled(Generic[Arguments, Result]):
    """A function of arrays and numbers, compiled when it is first called; it must not call another such function.

    The machine code is kept beside the source, or where that folder is read-only, in the user's cache. Importing numba
    takes half a second, which a command without such a call does not spend.
    """

    def __init__(self, function: Callable[Arguments, Result]) -> None:
        self.function = function
        self.machine_code: Callable[Arguments, Result] | None = None
        update_wrapper(self, function)

    def __call__(self, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        with _ONE_COMPILER:
            self.machine_code = self.machine_code or _compile(self.function)
        return self.machine_code(*arguments, **named)


def _compile(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    from numba import njit

    machine_code: Any
    try:
        machine_code = njit(function, nogil=True, error_model="numpy", cache=True)
        if not _is_kept(function, Path(machine_code.stats.cache_path)):
            _announce("once; the machine code is kept")
    except RuntimeError:  # no folder for the cache can be written
        machine_code = njit(function, nogil=True, error_model="numpy")
        _announce("in every process: no folder can keep the machine code; set the environment variable NUMBA_CACHE_DIR")
    return cast(Callable[Arguments, Result], machine_code)


def _is_kept(function: Callable[..., Any], folder: Path) -> bool:
    """Whether numba has kept machine code of a function, in files named for the function and its line."""
    return any(folder.glob(f"*.{function.__name__}-{function.__code__.co_firstlineno}.*"))


@cache
def _announce(how_often: str) -> None:
    """Log that loops are compiled, once in a process, because the first call waits for it without another message."""
    log.info("compiling loops for this processor takes a few seconds, %s", how_often)

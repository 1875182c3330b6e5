"""Loops over pixels as machine code: `@compiled` hands a function to numba when it is called first.

Whole-array operations write every intermediate result to memory. A compiled loop keeps those of a pixel in registers,
and releases Python's global lock. numba is not allowed to reorder or to fuse operations, so the results are those of
the same code in Python, to the bit.
"""

import threading
from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar, cast

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

    try:
        return cast(Callable[Arguments, Result], njit(function, nogil=True, error_model="numpy", cache=True))
    except RuntimeError:  # no folder for the cache can be written
        return cast(Callable[Arguments, Result], njit(function, nogil=True, error_model="numpy"))

"""Root's right to read and write everything, taken away for a test: the modes of files then hold as for any user."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
EFFECTIVE = (0, 3)  # of two times (effective, permitted, inheritable), 32 capabilities each


def drop_privileges() -> list[int]:
    """Give up the capabilities of root in this thread, and those that it starts; returns them for `set_privileges`."""
    return set_privileges([0, 0])


def set_privileges(effective: list[int]) -> list[int]:
    """Set the capabilities of this thread, as bits, among those that its process may have; returns those before."""
    if os.geteuid() != 0:
        return effective
    libc, header, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = [data[i] for i in EFFECTIVE]
    for i, bits in zip(EFFECTIVE, effective, strict=True):
        data[i] = bits
    assert libc.capset(header, data) == 0
    return before


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    before = drop_privileges()
    try:
        yield
    finally:
        set_privileges(before)

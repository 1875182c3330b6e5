"""Processes that hold a lock of a run's folder, as a stage does."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = """
import sys, time
from pathlib import Path
from pipeline import lock
{first}
with lock.only_writer(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""
WITHOUT_FLOCK = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""
"""Makes flock fail as it does on a network disk without locks."""


@contextlib.contextmanager
def holding(folder: Path, name: str, first: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock, or was refused: its output and error say which. first: code that it runs before"""
    command = [sys.executable, "-c", HOLD.format(first=first), str(folder), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
            yield process
        finally:
            process.send_signal(signal.SIGKILL)

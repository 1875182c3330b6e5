"""A process that is killed while it writes files, as SIGKILL leaves them."""

import signal
import subprocess
import sys
from pathlib import Path

WRITE_HALF = """
import contextlib, os, signal, sys
from pathlib import Path
from pipeline.files import replacing
with contextlib.ExitStack() as files:
    for path in sys.argv[1:]:
        files.enter_context(replacing(Path(path))).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_half_written(*paths: Path) -> list[Path]:
    """Kill a process that replaces these files; returns the temporary files that it leaves."""
    killed = subprocess.run([sys.executable, "-c", WRITE_HALF, *map(str, paths)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = [next(path.parent.glob(f"{path.name}.*")) for path in paths]
    assert not any(path.exists() for path in paths)
    return left

"""Starts one process a GPU for a stage that `train.processes` wants to share, and waits for them.

torchrun does as well, also over several machines: a process that finds WORLD_SIZE set takes part instead of starting
others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

SECONDS_BETWEEN_LOOKS = 0.2


def must_launch(num_processes: int) -> bool:
    """Whether this process is to start others, and is none of them itself."""
    return num_processes > 1 and "WORLD_SIZE" not in os.environ


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Run `python -P -m train ARGUMENTS` in that many processes on this machine; returns the first exit code but 0.

    When one process fails the others are stopped: they would wait for it.
    """
    common = os.environ | {
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    command = [sys.executable, "-P", "-m", "train", *arguments]
    processes = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(num_processes)
    ]
    try:
        return _first_failure(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

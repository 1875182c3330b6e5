"""Starts the processes of a stage that has `train.processes` above 1, one per GPU, and waits for them.

torchrun can start them as well, also on several machines: a process in whose environment WORLD_SIZE is set joins the
others and starts none.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

SECONDS_BETWEEN_POLLS = 0.2


def must_launch(num_processes: int) -> bool:
    """Whether this process must start the processes of a stage, and is not one of them."""
    return num_processes > 1 and "WORLD_SIZE" not in os.environ


def is_first_process() -> bool:
    """Whether this process is alone or the first of several, the one that writes files."""
    return os.environ.get("RANK", "0") == "0"


def launch(arguments: Sequence[str], num_processes: int) -> int:
    """Run `python -P -m train ARGUMENTS` in several processes on this machine.

    When one process fails, the others are stopped, because they would wait for it.

    returns: 0, or the exit code of the first process that failed
    """
    environment = os.environ | {
        "WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    command = [sys.executable, "-P", "-m", "train", *arguments]
    processes = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
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
        time.sleep(SECONDS_BETWEEN_POLLS)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

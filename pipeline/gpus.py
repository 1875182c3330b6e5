"""GPUs of this machine: the visible ones, and one for each run or process."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError


@functools.cache
def visible_gpus() -> tuple[str, ...]:
    """GPUs by their name in CUDA_VISIBLE_DEVICES; empty on a machine without NVIDIA's driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(word.strip() for word in chosen.split(",") if word.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # nosec B607: from PATH
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(number) for number in range(len(lines)))


@contextlib.contextmanager
def claimed_gpu(folder: Path) -> Iterator[dict[str, str]]:
    """Context in which a run has a GPU to itself; its value is the run's environment, {} without GPUs.

    Snakemake counts GPUs (`--resources gpu=4`) but does not number them. So each GPU has a lock file in `folder`, and
    the first free one is used.

    raises: UserError if all GPUs are in use
    """
    if not visible_gpus():
        yield {}
        return
    folder.mkdir(parents=True, exist_ok=True)
    for gpu in visible_gpus():
        with (folder / f"gpu-{gpu.replace('/', '_')}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield {"CUDA_VISIBLE_DEVICES": gpu}
            return
    raise UserError(
        f"all {len(visible_gpus())} GPUs are in use by other runs of {folder}; start Snakemake with --resources "
        f"gpu={len(visible_gpus())}"
    )

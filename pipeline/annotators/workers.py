"""Processes on this machine that annotate one part of the images each, with a GPU each if there is one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipeline.errors import StageError
from pipeline.gpus import visible_gpus
from pipeline.run import Run
from pipeline.settings import AnnotateSettings, AnnotatorSettings
from pipeline.shards import Shard, shards

log = logging.getLogger(__name__)


def num_processes(settings: AnnotateSettings) -> int:
    """Number of processes that annotate at the same time: `processes`, or one for each visible GPU."""
    if settings.processes != "auto":
        return settings.processes
    members = settings.ensemble.members.values() if settings.ensemble is not None else [settings]
    return max(1, len(visible_gpus())) if any(map(_takes_any_gpu, members)) else 1


def _takes_any_gpu(settings: AnnotatorSettings) -> bool:
    """Whether the annotator computes on the first GPU that it sees, and on no GPU by number."""
    return getattr(getattr(settings, settings.annotator, None), "device", None) in ("auto", "cuda")


def run_workers(run: Run, number: int) -> None:
    """Annotate the images of a run in several processes, whose log is passed on.

    raises: StageError if one of them fails; it has logged why, and the others finish their parts before
    """
    log.info("annotate: %d processes", number)
    parts = shards(number)
    with ExitStack() as running:
        processes = [running.enter_context(_worker(run, shard)) for shard in parts]
        codes = [process.wait() for process in processes]
    failed = [shard.name for shard, code in zip(parts, codes, strict=True) if code]
    if failed:
        raise StageError(
            f"annotate failed in {len(failed)} of {number} processes ({', '.join(failed)}); fix the error above, then "
            f"run {run.command('annotate')}: finished maps are kept"
        )


@contextmanager
def _worker(run: Run, shard: Shard) -> Iterator[subprocess.Popen[str]]:
    """Context with a process that annotates a shard. It is stopped at the end, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline", *run.arguments("annotate", "--shard", shard.name)],
        env={**os.environ, **_environment(shard)},
        stderr=subprocess.PIPE,
        text=True,
    )
    passing = threading.Thread(target=_pass_on, args=(process,))
    passing.start()
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        passing.join()


def _environment(shard: Shard) -> dict[str, str]:
    """Variables of a worker: its GPU, and its part of the CPU cores unless the user has set the number of threads."""
    gpus = visible_gpus()
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": gpus[(shard.number - 1) % len(gpus)]}
    threads = max(1, len(os.sched_getaffinity(0)) // shard.of)
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Write the log of a process to that of this one, line by line: bars of several processes would be a mess."""
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line)

"""Runs tasks on threads of this process or on a running cluster of Dask: independent ones, or merged in a tree.

Dask is imported only when tasks run, because its import takes as long as all others together.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from pipeline.errors import ConfigError
from pipeline.settings import ComputeSettings

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_TO_CONNECT = 10
RETRIES = 2  # of a task: a file system may fail, a worker may die
SECONDS_BEFORE_RETRY = 0.5
WINDOW = 256  # tasks that are submitted and have not finished
SPLIT_EVERY = 8  # results that are merged at a time


def run_tasks(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    compute: ComputeSettings,
    on_done: Callable[[Result], None],
) -> None:
    """Call `function` on every job, in any order; call `on_done` with each result, in this thread only.

    At most WINDOW jobs and results are in memory at a time, whatever the number of jobs. On a cluster, function and
    jobs must be importable and picklable there, and paths must mean the same files. A task is tried again if the file
    system fails, and on another worker if its worker dies.

    raises: ConfigError if `compute.scheduler` does not answer
    """
    tasks = (functools.partial(retrying, function, job) for job in jobs)
    for result in _from_threads(tasks, compute) if compute.scheduler == "threads" else _from_cluster(tasks, compute):
        on_done(result)


def _from_threads(tasks: Iterator[Callable[[], Result]], compute: ComputeSettings) -> Iterator[Result]:
    """Results of the tasks as they finish. After an error no further task is started."""
    pool = ThreadPoolExecutor(compute.workers or os.cpu_count())
    try:
        running = {pool.submit(task) for task in itertools.islice(tasks, WINDOW)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(task) for task in itertools.islice(tasks, len(finished))}
            for future in finished:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _from_cluster(tasks: Iterator[Callable[[], Result]], compute: ComputeSettings) -> Iterator[Result]:
    """Results of the tasks as they finish. After an error the tasks that run are cancelled."""
    with _client(compute.scheduler) as client:
        from distributed import as_completed

        def submit(number: int) -> list[Any]:
            return client.map(_call, list(itertools.islice(tasks, number)), pure=False, retries=RETRIES)

        finished = as_completed(submit(WINDOW), with_results=True)
        for batch in finished.batches():
            finished.update(submit(len(batch)))
            for _, result in batch:
                yield result


def _call(task: Callable[[], Result]) -> Result:
    return task()


def reduce_tasks(
    function: Callable[[Job], Result],
    merge: Callable[[Result, Result], Result],
    jobs: Sequence[Job],
    compute: ComputeSettings,
    on_done: Callable[[], None],
) -> Result:
    """Call `function` on every job and merge the results in a tree, on the workers; call `on_done` after each job.

    Only a few results are in memory at a time, whatever the number of jobs.

    jobs:   at least one
    raises: ConfigError if `compute.scheduler` does not answer
    """
    from dask import delayed

    leaves = [_task(function, job) for job in jobs]
    level = leaves
    while len(level) > 1:
        groups = [level[i : i + SPLIT_EVERY] for i in range(0, len(level), SPLIT_EVERY)]
        level = [delayed(_merge_all, pure=False)(merge, group) for group in groups]
    root = level[0]
    result: Result
    if compute.scheduler == "threads":
        result = _on_threads(root, compute, {leaf.key for leaf in leaves}, on_done)
        return result
    with _client(compute.scheduler) as client:
        result = client.compute(root, retries=RETRIES).result()
        for _ in jobs:
            on_done()
        return result


def _task(function: Callable[[Job], Result], job: Job) -> Any:
    """A task that calls `function` on a job.

    The job is no argument of the task: Dask searches arguments for other tasks, also in named tuples and dataclasses.
    The search through the sample index in each of 366 jobs took a fifth of the time of calibrate.
    """
    from dask import delayed

    return delayed(functools.partial(retrying, function, job), pure=False, traverse=False)()


def _merge_all(merge: Callable[[Result, Result], Result], results: Sequence[Result]) -> Result:
    return functools.reduce(merge, results)


def retrying(function: Callable[[Job], Result], job: Job) -> Result:
    """`function(job)`, tried up to RETRIES times again after an OSError."""
    for attempt in range(1, RETRIES + 1):
        try:
            return function(job)
        except OSError as error:
            log.warning("%s: attempt %d failed (%s); trying again", function, attempt, error)
            time.sleep(SECONDS_BEFORE_RETRY * attempt)
    return function(job)


def _on_threads(root: Any, compute: ComputeSettings, leaves: set[Any], on_done: Callable[[], None]) -> Any:
    """Result of a task and those that it depends on; `on_done` is called after each task with a key in `leaves`."""
    from dask.callbacks import Callback

    def after_task(key: Any, *_: Any) -> None:
        if key in leaves:
            on_done()

    workers = compute.workers or os.cpu_count() or 1
    with Callback(posttask=after_task):
        return root.compute(scheduler="threads", num_workers=workers, optimize_graph=False)


def _client(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # also tls without certificates
        raise ConfigError(
            f"compute.scheduler: no Dask scheduler answers at {address} ({error}); start it (dask scheduler), or set "
            "compute.scheduler: threads"
        ) from None

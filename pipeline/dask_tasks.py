"""Runs independent tasks with Dask: on threads of this process, or on a running cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import dask
from dask.callbacks import Callback

from pipeline.config import ComputeSettings
from pipeline.errors import ConfigError

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_TO_CONNECT = 10
RETRIES = 2  # of a task on a cluster: a worker may die


def run_tasks(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    compute: ComputeSettings,
    on_done: Callable[[Result], None],
) -> None:
    """Call `function` on every job, in any order; `on_done` sees each result as it comes, in this thread only.

    On a cluster, function and jobs must be importable and picklable there, and paths must mean the same files.
    """
    tasks = [dask.delayed(function, pure=False)(job) for job in jobs]
    if compute.scheduler == "threads":
        _run_on_threads(tasks, compute.workers or os.cpu_count() or 1, on_done)
    else:
        _run_on_cluster(tasks, compute.scheduler, on_done)


def _run_on_threads(tasks: list[Any], workers: int, on_done: Callable[[Any], None]) -> None:
    keys = {task.key for task in tasks}

    def after_task(key: Any, result: Any, *_: Any) -> None:
        if key in keys:
            on_done(result)

    with Callback(posttask=after_task):
        dask.compute(*tasks, scheduler="threads", num_workers=workers, optimize_graph=False)


def _run_on_cluster(tasks: list[Any], address: str, on_done: Callable[[Any], None]) -> None:
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"compute.scheduler: no Dask scheduler answers at {address} ({error}); start one or use threads"
        ) from None
    with client:
        for _, result in as_completed(client.compute(tasks, retries=RETRIES), with_results=True):
            on_done(result)

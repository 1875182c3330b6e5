"""Tasks that run on threads."""

import pytest
from dask import delayed
from distributed import LocalCluster

from pipeline.dask_tasks import reduce_tasks, run_tasks
from pipeline.settings import ComputeSettings

THREADS = ComputeSettings(workers=2)


def test_a_job_reaches_its_function_as_it_is():
    # Dask would replace the inner task by its result if it searched the job, which takes long for a large one
    jobs, found = [([delayed(1)],), ([delayed(2)],)], []
    run_tasks(lambda job: job, jobs, THREADS, found.append)
    assert sorted(map(id, found)) == sorted(map(id, jobs))


def test_results_are_merged_in_the_order_of_the_jobs():
    done = []
    merged = reduce_tasks(lambda job: [job], lambda a, b: a + b, range(30), THREADS, lambda: done.append(1))
    assert merged == list(range(30))
    assert len(done) == 30


@pytest.fixture(params=["threads", pytest.param("a cluster", marks=pytest.mark.slow)])
def compute(request):
    if request.param == "threads":
        yield THREADS
        return
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster:
        yield ComputeSettings(scheduler=cluster.scheduler_address)


def test_only_a_window_of_jobs_and_results_is_in_memory(compute, monkeypatch):
    monkeypatch.setattr("pipeline.dask_tasks.WINDOW", 4)
    taken, done, in_memory = [], [], []

    def jobs():
        for job in range(40):
            taken.append(job)
            yield job

    def on_done(result):
        in_memory.append(len(taken) - len(done))
        done.append(result)

    run_tasks(lambda job: job, jobs(), compute, on_done)
    assert sorted(done) == list(range(40))
    assert max(in_memory) <= 2 * 4  # those that run, and those that have finished


def test_after_an_error_no_further_job_is_started(compute, monkeypatch):
    monkeypatch.setattr("pipeline.dask_tasks.WINDOW", 4)
    taken = []

    def jobs():
        for job in range(40):
            taken.append(job)
            yield job

    def fail(job):
        raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match=r"job \d"):
        run_tasks(fail, jobs(), compute, print)
    assert len(taken) <= 2 * 4

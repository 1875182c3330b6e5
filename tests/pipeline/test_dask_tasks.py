"""Tasks that run on threads."""

from dask import delayed

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

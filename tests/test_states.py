"""Whatever happens to a run: no map is stale or made twice, nothing is lost, and refusals name what repairs them."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from campaigns.states import play


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # restored at the end
    return tmp_path


def played(folder, **how):
    """`play` in a process of its own: a fork of one that has used an object store waits for its threads for ever."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(play, folder, **how).result()


def test_a_run_survives_what_happens_to_it(folder):
    steps, failures = played(folder, count=2, num_steps=6, seed=4)
    assert failures == []
    assert steps.total() >= 8


@pytest.mark.slow
def test_a_run_survives_a_long_series_of_what_happens(folder):
    steps, failures = played(folder, count=5, num_steps=16, seed=20)
    assert failures == []
    # which steps are drawn depends on the constants of all imported modules, too
    assert len(steps) >= 8
    assert steps.total() >= 50

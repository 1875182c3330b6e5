"""calibrate and pseudolabel on worker processes: the bytes of a run on threads, also if a worker dies in the middle."""

import os
import signal

import pytest
from distributed import Client, LocalCluster
from stage_runs import digest_of, run_stages

from pipeline.store import CalibrationStore, LabelStore

STORES = ("calibration.zarr", "labels.zarr")
VARIANTS = {
    "pixel": {"alphas": [0.3, 0.5]},
    "kmeans": {"variant": "kmeans", "alpha": 0.4},
    "risk": {"variant": "risk", "rule": "argmax", "alpha": 0.4},
}


@pytest.fixture
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(40)])


def digests(settings):
    return {name: digest_of(settings.folder / name) for name in STORES}


SPLITS = {"num_labeled": 18}


@pytest.mark.slow
def test_two_worker_processes_write_the_bytes_that_threads_write(data, make_settings, cluster):
    for name, variant in VARIANTS.items():
        local = make_settings(name=f"local {name}", **SPLITS, **variant)
        remote = make_settings(name=f"remote {name}", scheduler=cluster.scheduler_address, **SPLITS, **variant)
        run_stages(local)
        run_stages(remote)
        assert digests(remote) == digests(local)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["calibrate", "pseudolabel"])
def test_a_worker_that_is_killed_costs_no_byte(data, make_settings, cluster, monkeypatch, stage):
    local = make_settings(name="local", **SPLITS)
    run_stages(local)
    with Client(cluster.scheduler_address) as client:
        pids = list(client.run(os.getpid).values())
    kind = CalibrationStore if stage == "calibrate" else LabelStore
    original, killed = kind.mark, []

    def mark(self, index, status):
        original(self, index, status)
        if not killed:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    remote = make_settings(name="remote", scheduler=cluster.scheduler_address, **SPLITS)
    run_stages(remote, "prepare", "annotate")
    if stage == "pseudolabel":
        run_stages(remote, "calibrate")
    monkeypatch.setattr(kind, "mark", mark)
    run_stages(remote, *(["calibrate"] if stage == "calibrate" else []), "pseudolabel")
    assert killed
    assert digests(remote) == digests(local)

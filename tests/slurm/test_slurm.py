"""A run on a real Slurm: jobs of the profile, one of them cancelled, a node drained and another one lost in the middle.

tests/slurm/start.sh FOLDER && pytest -m slurm tests/slurm; tests/slurm/stop.sh FOLDER
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stage_runs import contents, run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.run import Run
from pipeline.run_file import load_settings

ROOT = Path(__file__).parents[2]
PARTS = {f"{i}_of_4" for i in (1, 2, 3, 4)}
OPTIONS = (
    *("--snakefile", ROOT / "Snakefile", "--workflow-profile", ROOT / "profiles/slurm", "--cores", "1"),
    # the cluster has no accounting
    *("--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "3"),
)

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def slurm(*words):
    """Standard output of a command of Slurm, line by line."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def running_parts():
    """Job and node of each job that annotates a part."""
    jobs = (line.split() for line in slurm("squeue", "--noheader", "--states=R", "--format=%i %N %k"))
    return [(job, node) for job, node, *rule in jobs if "annotate_shard" in " ".join(rule)]


def resume():
    """Use the nodes again that were drained or lost, unless Slurm does already."""
    for node in ("node1", "node3"):
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)


@pytest.fixture
def settings(tmp_path):
    """A run whose annotator needs three seconds an image."""
    write_sample_files(tmp_path / "data", [f"im{i:02d}" for i in range(14)], size=(40, 48))
    arguments = {"seconds": 3.0, "log": str(tmp_path / "calls")}
    python = {"factory": "noisy_annotator:build", "arguments": arguments}
    section = {"annotator": "python", "python": python, "class_check": "warn", "batch_size": 1, "shards": 4}
    return load_settings(write_run_file(tmp_path, annotate=section), {})


@pytest.fixture
def cluster():
    """The cluster of start.sh, all of whose nodes are in use again at the end."""
    yield
    resume()


def test_parts_survive_a_cancelled_job_a_drained_node_and_a_lost_node(settings, cluster, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    command = [sys.executable, "-P", "-m", "snakemake", *map(str, OPTIONS), "pseudolabel", "--config"]
    log = (tmp_path / "log").open("w+")
    workflow = subprocess.Popen(
        [*command, f"run={settings.origin.run}"], cwd=tmp_path, env=environment, stderr=subprocess.STDOUT, stdout=log
    )
    while len(jobs := running_parts()) < 3:
        assert workflow.poll() is None, (tmp_path / "log").read_text()
        time.sleep(1)
    slurm("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    slurm("scancel", *(job for job, node in jobs if node == "node2"))
    time.sleep(8)
    slurm("scontrol", "update", "nodename=node3", "state=down", "reason=test")
    time.sleep(8)
    resume()
    assert workflow.wait() == 0, (tmp_path / "log").read_text()
    assert "Trying to restart job" in (tmp_path / "log").read_text()
    assert {path.stem for path in (settings.folder / "logs/annotate").iterdir()} == PARTS

    made = Run(settings).recorded("annotate")["cache"]["num_made"]
    assert made == 0, "the last job only gathers"
    alone = load_settings(settings.origin.run, {"name": "alone", "cache": str(tmp_path / "alone")})
    run_stages(alone)
    for name in ("probs.zarr/logits", "labels.zarr"):
        assert contents(settings.folder / name) == contents(alone.folder / name)

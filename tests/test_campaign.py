"""The long searches of tests/campaign.py, in short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


SHORT = [
    ("kills", 151, 3, "calibrate"),  # a seed that plays annotate and calibrate
    ("shards", 1, 10, "annotate"),
    ("writers", 1, 4, "pseudolabel"),
    ("files", 1, 4, "pseudolabel"),
    ("permissions", 1, 16, "report"),
    ("disk", 1, 4, "pseudolabel"),
]


def can_mount(folder):
    """Whether this process may mount a file system in memory."""
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed", "count", "until"), SHORT)
def test_a_short_campaign_finds_nothing(name, seed, count, until, tmp_path):
    if name == "disk" and not can_mount(tmp_path):
        pytest.skip("may not mount file systems")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # as a user starts it
    script = [sys.executable, str(ROOT / "tests/campaign.py")]
    command = [*script, name, "--seed", str(seed), "--count", str(count), "--until", until]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^\| ---", finished.stdout, re.MULTILINE)
    assert "\n0 failures\n" in finished.stdout

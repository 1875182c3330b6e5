"""The long searches of tests/campaign.py, in short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "count"),
    [("kills", 3), *(pytest.param(name, 4, marks=pytest.mark.slow) for name in ("writers", "files"))],
)
def test_a_short_campaign_finds_nothing(name, count):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)  # as a user starts it
    script = [sys.executable, str(ROOT / "tests/campaign.py")]
    command = [*script, name, "--seed", "1", "--count", str(count), "--until", "pseudolabel"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^\| ---", finished.stdout, re.MULTILINE)
    assert "\n0 failures\n" in finished.stdout

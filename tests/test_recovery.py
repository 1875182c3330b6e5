"""The documents' way out of a killed snakemake, literally."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import write_run_file, write_sample_files

ROOT = Path(__file__).parents[1]
WAITING = """
import time
from pathlib import Path

from noisy_annotator import NoisyAnnotator

class Waiting(NoisyAnnotator):
    def __call__(self, images):
        while Path("wait").exists():
            time.sleep(0.05)
        return super().__call__(images)

def build():
    return Waiting("logits", 2, 0.0, None, 1)
"""


def row_of(tasks: str, beginning: str) -> str:
    """The command in the row of the table of tasks that begins so."""
    return re.search(rf"^\| {re.escape(beginning)}[^|]*\| `([^`]+)`", tasks, re.MULTILINE)[1]


def unlock_commands() -> list[str]:
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    return [command for text in texts for command in re.findall(r"`(snakemake [^`]*--unlock[^`]*)`", text)]


@pytest.fixture
def folder(tmp_path):
    """A folder as a clone of this repository, with a run `mine` whose annotator waits while there is a file `wait`."""
    for name in ("Snakefile", "profiles", "environment.yml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "config").mkdir()
    write_sample_files(tmp_path / "data", [f"im{i:02d}" for i in range(12)])
    (tmp_path / "waiting_annotator.py").write_text(WAITING)
    annotate = {"annotator": "python", "python": {"factory": "waiting_annotator:build"}, "batch_size": 2}
    write_run_file(tmp_path, annotate=annotate).rename(tmp_path / "config/mine.yaml")
    return tmp_path


def shell(folder, command, **how):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests/support", folder)))
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PYTHONPATH": paths, "PATH": programs}
    return subprocess.Popen(
        f"exec {command}", shell=True, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **how
    )


def run(folder, command):
    """Exit code and standard error."""
    with shell(folder, command, stdout=subprocess.DEVNULL) as process:
        _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def test_the_documents_say_how_to_unlock():
    assert len(unlock_commands()) >= 2


@pytest.mark.slow
def test_the_documents_lead_out_of_a_killed_snakemake(folder):
    tasks = (ROOT / "docs/tasks.md").read_text()
    as_before = row_of(tasks, "run everything, or continue after an interruption").replace(" all ", " annotate ")
    assert row_of(tasks, "continue after a `kill -9` of snakemake itself") in unlock_commands()
    (folder / "wait").touch()
    maps, receipt = folder / "results/mine/probs.zarr", folder / "results/mine/annotate.json"
    with shell(folder, as_before, stdout=subprocess.DEVNULL) as started:
        lock = folder / "results/mine/.locks/annotate"
        while not lock.is_file() and started.poll() is None:
            time.sleep(0.1)
        assert started.poll() is None, started.stderr.read()
        started.send_signal(signal.SIGKILL)
        started.wait()
        started.stderr.close()  # the orphan holds its other end

    code, errors = run(folder, as_before)
    assert code == 1
    assert "--unlock" in errors
    for command in unlock_commands():
        code, errors = run(folder, command)
        assert (code, "error" in errors.lower()) == (0, False), errors

    code, errors = run(folder, as_before)
    assert code == 1
    assert "Traceback" not in errors
    (found,) = re.findall(
        r"error: process \d+ \(.* annotate .*\) runs annotate in .*; wait .*: (kill \d+)$", errors, re.M
    )
    assert not receipt.exists()
    assert run(folder, found)[0] == 0
    (folder / "wait").unlink()
    code, errors = run(folder, as_before)
    assert code == 0, errors
    assert receipt.is_file()
    assert maps.is_dir()
    assert "Nothing to be done" in run(folder, as_before)[1]

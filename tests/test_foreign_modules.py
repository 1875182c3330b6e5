"""Files of the working folder that are named as our packages, or as those that we use, are never executed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import write_run_file, write_sample_files

from pipeline.store import open_probabilities

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
FOREIGN = ("train.py", "calib/__init__.py", "scipy.py", "numpy.py", "pipeline.py", "random.py")
OWN_ANNOTATOR = "from noisy_annotator import build\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose annotator is a module of the working folder, among foreign modules that leave a trace."""
    folder = tmp_path_factory.mktemp("working")
    write_sample_files(folder / "data", [f"im{i}" for i in range(12)])
    python = {"factory": "own_annotator:build"}
    write_run_file(folder, annotate={"annotator": "python", "python": python, "batch_size": 2})
    (folder / "own_annotator.py").write_text(OWN_ANNOTATOR)
    for name in FOREIGN:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("open('executed', 'a').write(__file__)\nraise RuntimeError(__file__)\n")
    return folder


def call(folder, *command):
    """Run a command in the folder as a user would; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}
    environment.pop("PYTHONSAFEPATH", None)
    words = [str(word) for word in command]
    finished = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not (folder / "executed").exists(), (folder / "executed").read_text()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def test_the_foreign_modules_would_be_executed_if_they_could(folder):
    code = "try:\n import train\nexcept RuntimeError: print('executed')"
    # a test before may have closed the working folder to all processes that follow, as the Snakefile does
    unprotected = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", code]
    assert "executed" in subprocess.run(command, cwd=folder, capture_output=True, text=True, env=unprotected).stdout
    (folder / "executed").unlink()


def test_commands_start(folder):
    assert "conformalsam" in call(folder, BIN / "conformalsam", "--version")
    assert "stage1" in call(folder, BIN / "conformalsam", "--help")


@pytest.mark.parametrize("package", ["pipeline", "train"])
def test_a_package_runs_as_a_module_beside_all_but_its_own_name(folder, tmp_path, package):
    for name in FOREIGN:
        if name != f"{package}.py":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text((folder / name).read_text())
    assert "Usage" in call(tmp_path, sys.executable, "-m", package, "--help")


@pytest.mark.slow
def test_an_annotator_of_the_working_folder_is_found_by_stages_and_by_doctor(folder):
    call(folder, BIN / "conformalsam", "prepare", "tiny.yaml", "--set", "name=stages")
    call(folder, BIN / "conformalsam", "annotate", "tiny.yaml", "--set", "name=stages")
    assert "own_annotator" not in call(folder, BIN / "conformalsam", "doctor", "tiny.yaml", "--set", "name=stages")


@pytest.mark.slow
def test_snakemake_and_its_jobs_run(folder):
    options = ("--snakefile", ROOT / "Snakefile", "--cores", "2", "--workflow-profile", ROOT / "profiles/default")
    call(folder, BIN / "snakemake", *options, "calibrate", "--config", "run=tiny.yaml")
    assert len(open_probabilities(folder / "results/tiny/probs.zarr").sample_ids) == 10

"""kill -9 in the middle of a stage: the next run goes on and ends with the bytes of an undisturbed run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.run import Run
from pipeline.stages.annotate import annotate
from pipeline.stages.calibrate import calibrate
from pipeline.stages.prepare import prepare
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import DONE, open_for_inspection

STAGES = {"prepare": prepare, "annotate": annotate, "calibrate": calibrate, "pseudolabel": pseudolabel}
ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests/support"
CHUNKS = {
    "annotate": ("probs.zarr", "prob/c"),
    "calibrate": ("calibration.zarr", "score/c"),
    "pseudolabel": ("labels.zarr", "label/c"),
}


def run_until(settings, last):
    for name, stage in STAGES.items():
        Run(settings).finish(name, stage(settings))
        if name == last:
            return


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", CHUNKS)
@pytest.mark.parametrize("moment", [2, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (1, 5))])
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(tmp_path, write_images, make_settings, stage, moment):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(14)])
    store, fragment = CHUNKS[stage]
    undisturbed = make_settings()
    run_until(undisturbed, stage)
    expected = contents(undisturbed.folder / store)
    undisturbed.folder.rename(tmp_path / "expected")

    settings = make_settings()
    run_until(settings, list(STAGES)[list(STAGES).index(stage) - 1])
    Run(settings).finish(stage, {"fingerprint": "of an earlier run"})
    command = [
        sys.executable,
        str(SUPPORT / "killed_stage.py"),
        str(tmp_path / "tiny.yaml"),
        stage,
        fragment,
        str(moment),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"}
    killed = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (settings.folder / f"{stage}.json").exists(), "Snakemake would find nothing to be done"
    half_done = open_for_inspection(settings.folder / store)
    done = int((half_done.status == DONE).sum())
    assert done < moment + 1
    assert not half_done.state["complete"]

    finished = [settings.folder / store / f"{fragment}/{i}" for i in np.flatnonzero(half_done.status == DONE)]
    times = [chunk.stat().st_mtime_ns for chunk in finished]
    STAGES[stage](settings)
    assert contents(settings.folder / store) == expected
    assert [chunk.stat().st_mtime_ns for chunk in finished] == times, "a finished image was made again"

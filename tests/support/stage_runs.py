"""Stages run one after the other in this process, and what they left."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.lock import FOLDER as LOCKS
from pipeline.run import Run
from pipeline.stages.annotate import annotate
from pipeline.stages.calibrate import calibrate
from pipeline.stages.prepare import prepare
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import open_labels, open_probabilities

SUPPORT = Path(__file__).parent
STAGES = {"prepare": prepare, "annotate": annotate, "calibrate": calibrate, "pseudolabel": pseudolabel}


def run_stages(settings, *names):
    """Run these stages (default: all up to the labels), and write their receipts."""
    for name in names or STAGES:
        Run(settings).finish(name, STAGES[name](settings))


def forget_maps(settings):
    """Remove the maps of a run, and those that runs share."""
    shutil.rmtree(settings.folder / "probs.zarr", ignore_errors=True)
    shutil.rmtree(settings.cache_folder, ignore_errors=True)


def kill_stage(run_file: Path, stage: str, fragment: str, moment: int) -> None:
    """Run a stage in a process that dies by SIGKILL, as `killed_stage.py` says."""
    words = SUPPORT / "killed_stage.py", run_file, stage, fragment, moment
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT.parents[1]}{os.pathsep}{SUPPORT}"}
    killed = subprocess.run([sys.executable, *map(str, words)], env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def contents(folder: Path) -> dict[Path, bytes]:
    """Bytes of every file of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def probabilities_of(settings, samples):
    """float32 [N, K, H, W] on the grid."""
    store = open_probabilities(settings.folder / "probs.zarr")
    position = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}
    return np.stack([store.probabilities(position[sample.id]).rows(slice(None)) for sample in samples])


def labels_of(settings):
    """float32 [N, H, W], NaN = abstain."""
    store = open_labels(settings.folder / "labels.zarr")
    return np.stack([store.label(i) for i in range(len(store.sample_ids))])


def digest_of(folder: Path) -> str:
    """Of all files of a store or a run, names and contents; locks are left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent.name != LOCKS:
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()

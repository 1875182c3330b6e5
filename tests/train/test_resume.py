"""A stage killed at any moment and run again gives the same bits as one that was left alone."""

import multiprocessing
import runpy
import signal
from pathlib import Path

import pytest
import torch

from pipeline.receipt import write_json
from train.checkpoint import load_checkpoint
from train.stage1 import stage1
from train.stage2 import stage2

SCRIPT = Path(__file__).with_name("killed_run.py")
STAGES = {"stage1": stage1, "stage2": stage2}


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that have imported the trainer already, but never used it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.stage1", "train.stage2"])
    return context


def run_until_killed(processes, settings, stage, **moment):
    arguments = {"settings": settings, "stage": stage, "moment": moment}
    process = processes.Process(target=runpy.run_path, args=(str(SCRIPT), arguments))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL


def finish(settings, stage):
    facts = STAGES[stage](settings)
    write_json(settings.folder / f"{stage}.json", facts)
    return facts


def step_of(settings, stage):
    checkpoint = load_checkpoint(settings.folder / stage / "checkpoint.pt")
    return None if checkpoint is None else checkpoint["step"]


def trained_bits(settings, stage):
    """Everything that the stage leaves behind, but the time that it took."""
    checkpoint = load_checkpoint(settings.folder / stage / "checkpoint.pt")
    exported = (settings.folder / stage / "student" / "model.safetensors").read_bytes()
    moments = [entry["momentum_buffer"] for entry in checkpoint["optimizer"]["state"].values()]
    return exported, list(checkpoint["model"].values()), moments, checkpoint["history"]


def assert_same_bits(one, other):
    assert one[0] == other[0]
    for ours, theirs in zip(one[1] + one[2], other[1] + other[2], strict=True):
        assert torch.equal(ours, theirs)
    assert one[3] == other[3]


def with_workers(settings, name, workers):
    """The same run in another folder, with the files that the stages read."""
    changed = settings.model_copy(
        update={"name": name, "train": settings.train.model_copy(update={"workers": workers})}
    )
    changed.folder.mkdir()
    for file in ("samples.json", "labels.zarr", "pseudolabel.json"):
        (changed.folder / file).symlink_to(settings.folder / file)
    return changed


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_gives_the_same_bits(make_run, processes, workers):
    undisturbed = make_run(
        train={"checkpoint_every": 3, "validate_every": 2}, stage1={"epochs": 3}, stage2={"epochs": 2}
    )
    killed = with_workers(undisturbed, "killed", workers)

    facts = finish(undisturbed, "stage1")
    run_until_killed(processes, killed, "stage1", steps=2)  # before the first checkpoint
    assert step_of(killed, "stage1") is None
    run_until_killed(processes, killed, "stage1", steps=5)
    assert step_of(killed, "stage1") == 3
    run_until_killed(processes, killed, "stage1", renames=2)  # at steps 6 and 8, where the second epoch ends
    assert step_of(killed, "stage1") == 6
    run_until_killed(processes, killed, "stage1", renames=3)  # at steps 8, 9 and 12: all is done but the last rename
    assert step_of(killed, "stage1") == 9
    assert finish(killed, "stage1")["history"] == facts["history"]
    assert_same_bits(trained_bits(undisturbed, "stage1"), trained_bits(killed, "stage1"))

    finish(undisturbed, "stage2")
    run_until_killed(processes, killed, "stage2", steps=4)
    assert step_of(killed, "stage2") == 3
    run_until_killed(processes, killed, "stage2", renames=2)  # at steps 6 and 9
    assert step_of(killed, "stage2") == 6
    finish(killed, "stage2")
    assert_same_bits(trained_bits(undisturbed, "stage2"), trained_bits(killed, "stage2"))

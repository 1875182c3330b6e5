"""A stage killed at any moment and run again gives the same bits as one that was left alone."""

import multiprocessing
import random
import runpy
import signal
from pathlib import Path

import pytest
import torch

from pipeline.run import Run
from train.engine.checkpoint import load_checkpoint
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
    Run(settings).finish(stage, facts)
    return facts


def step_of(settings, stage):
    checkpoint = load_checkpoint(settings.folder / stage / "checkpoint.pt")
    return None if checkpoint is None else checkpoint["step"]


def trained_bits(settings, stage):
    """Everything that the stage leaves behind, but the time that it took: files of weights, and the checkpoint."""
    folder = settings.folder / stage
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    checkpoint.pop("seconds")
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/*.safetensors")}, checkpoint


def assert_same_bits(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            assert_same_bits(ours, theirs)
    else:
        assert one == other or (one != one and other != other)  # NaN: a measure that the recipe does not have


def twin(settings, **train):
    """The same run in another folder, with the files that the stages read, and a checkpoint after every step."""
    train = {"checkpoint_minutes": 0.0} | train
    changed = settings.model_copy(update={"name": "killed", "train": settings.train.model_copy(update=train)})
    changed.folder.mkdir()
    for file in ("samples.json", "labels.zarr", "pseudolabel.json"):
        (changed.folder / file).symlink_to(settings.folder / file)
    return changed


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_resumed_gives_the_same_bits(make_run, processes, workers):
    undisturbed = make_run(train={"validate_every": 2}, stage1={"epochs": 3}, stage2={"epochs": 2})
    killed = twin(undisturbed, workers=workers)

    facts = finish(undisturbed, "stage1")
    Run(killed).finish("stage1", {"fingerprint": "of an earlier run"})
    run_until_killed(processes, killed, "stage1", renames=1)  # before the first checkpoint is in its place
    assert not Run(killed).has_receipt("stage1"), "Snakemake would find nothing to be done"
    assert step_of(killed, "stage1") is None
    run_until_killed(processes, killed, "stage1", steps=5)
    assert step_of(killed, "stage1") == 4
    run_until_killed(processes, killed, "stage1", renames=4)  # of steps 5 to 8, where the second epoch ends
    assert step_of(killed, "stage1") == 7
    run_until_killed(processes, killed, "stage1", renames=5)  # of steps 8 to 12: all is done but the last rename
    assert step_of(killed, "stage1") == 11
    assert finish(killed, "stage1")["history"] == facts["history"]
    assert_same_bits(trained_bits(undisturbed, "stage1"), trained_bits(killed, "stage1"))

    finish(undisturbed, "stage2")
    run_until_killed(processes, killed, "stage2", steps=4)
    assert step_of(killed, "stage2") == 3
    run_until_killed(processes, killed, "stage2", renames=4)  # of steps 4 to 7
    assert step_of(killed, "stage2") == 6
    finish(killed, "stage2")
    assert_same_bits(trained_bits(undisturbed, "stage2"), trained_bits(killed, "stage2"))


RECIPES = {
    "plus": {
        "train": {"optimizer": "adamw", "lr": 0.001, "ema": 0.9, "holdout": 1},
        "stage1": {"batch_size": 3, "batch_labeled": 1},
        "stage2": {
            "views": 2,
            "cutmix": 0.5,
            "complementary_dropout": True,
            "confidence": "conformal",
            "confidence_alpha": 0.5,
            "normaliser": "valid",
            "batch_unlabeled": 2,
        },
    },
    "allspark": {
        "train": {"framework": "allspark", "memory_warmup": 1},
        "stage1": {"batch_size": 2, "batch_labeled": 1},
        "stage2": {"lambda_per": "step"},
    },
    "accumulated": {"train": {"accumulate": 2}, "stage2": {"batch_labeled": 2, "batch_unlabeled": 2}},
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_killed_at_a_random_step_of_each_stage_gives_the_same_bits(make_run, processes, recipe):
    sections = RECIPES[recipe]
    train = {"validate_every": 1} | sections["train"]
    undisturbed = make_run(
        train=train,
        stage1={"epochs": 2} | sections.get("stage1", {}),
        stage2={"epochs": 2} | sections.get("stage2", {}),
    )
    killed = twin(undisturbed, workers=0)
    for stage in ("stage1", "stage2"):
        num_steps = finish(undisturbed, stage)["num_steps"]
        step = random.SystemRandom().randrange(1, num_steps)
        print(f"{stage} is killed after step {step} of {num_steps}")  # pytest shows it if what follows fails
        run_until_killed(processes, killed, stage, steps=step)
        finish(killed, stage)
        assert_same_bits(trained_bits(undisturbed, stage), trained_bits(killed, stage))

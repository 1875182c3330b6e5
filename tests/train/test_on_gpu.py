"""What only a GPU can show: the host never waits within a step, and the loss falls there, too."""

import pytest
import torch

from pipeline.datasets import load_samples
from pipeline.run import Run
from train.engine.state import new_state
from train.engine.step import optimise
from train.machine.device import compute_of
from train.recipe import new_student
from train.stage1 import stage1
from train.stage2 import finished_stage1, stage_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PLUS = {"views": 2, "cutmix": 0.5, "complementary_dropout": True, "confidence": "threshold", "threshold": 0.4}


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_stage_trains_on_a_gpu(make_run, precision):
    facts = stage1(make_run(train={"device": "cuda", "precision": precision}, stage1={"epochs": 12, "strong": False}))
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"train": {"ema": 0.9}, "stage2": PLUS},
        {"train": {"framework": "allspark", "memory_warmup": 0}},
        {"train": {"labeled_loss": "ohem", "ohem_min_kept": 1000}},
    ],
    ids=["paper", "plus", "allspark", "ohem"],
)
def test_the_host_never_waits_for_the_device_within_a_step(make_run, sections):
    settings = make_run(
        train={"device": "cuda"} | sections.get("train", {}),
        stage1={"epochs": 0, "labels": "none", "batch_labeled": None},
        stage2={"batch_labeled": 2, "batch_unlabeled": 2} | sections.get("stage2", {}),
    )
    Run(settings).finish("stage1", stage1(settings))
    index = load_samples(settings.folder / "samples.json")
    stage = stage_of(settings, index, finished_stage1(settings, index))
    state = new_state(new_student(settings, compute_of(settings.train)), settings.train, 3)
    batches = [[stage.images[draw] for group in stage.draws(step) for draw in group] for step in range(3)]
    optimise(state, stage, batches[0])  # what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for examples in batches[1:]:
            optimise(state, stage, examples)
    finally:
        torch.cuda.set_sync_debug_mode("default")

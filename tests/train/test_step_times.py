"""The steps that are timed are those of the stages."""

import json
import time

import pytest
from click.testing import CliRunner

from pipeline.run import Run
from train import stage1, step_times
from train.__main__ import main

NUM = {"labeled": 3, "unlabeled": 5, "val": 2}


def test_as_many_steps_as_the_stages_take(make_run):
    settings = make_run(NUM, stage1={"batch_labeled": 1}, stage2={"epochs": 3, "batch_unlabeled": 2})
    real = stage1.stage_of(settings, Run(settings).samples("stage1"), stage1.open_run_labels(settings))
    index = step_times.random_index(settings, NUM)
    assert step_times.stage_of(settings, "stage1", index).num_steps == real.num_steps == 10
    assert step_times.stage_of(settings, "stage2", index).num_steps == 6


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_command_times_steps_and_writes_nothing(make_run, stage):
    settings = make_run(NUM)
    before = sorted(settings.folder.rglob("*"))
    request = json.dumps({"settings": settings.model_dump(mode="json"), "num_images": NUM})
    start = time.monotonic()
    result = CliRunner().invoke(main, ["step-times", stage, "-"], input=request)
    elapsed = time.monotonic() - start
    facts = json.loads(result.output)
    assert 0 < facts["seconds"] < elapsed / 2  # the median of three, so two took as long or longer
    assert facts["bytes"] > 50e6  # torch alone needs more
    assert (facts["on_gpu"], facts["device"]) == (False, "CPU x 1")
    assert sorted(settings.folder.rglob("*")) == before


def test_a_stage_of_one_step_is_timed_by_it(make_run):
    settings = make_run(NUM, stage2={"epochs": 1, "batch_unlabeled": 5})
    facts = step_times.step_times(settings, "stage2", NUM)
    assert (facts["num_steps"], facts["seconds"] > 0) == (1, True)


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"framework": "allspark", "memory_warmup": 0}, "stage1": {"batch_labeled": 1}},
        {"stage1": {"labels": "none"}},
        {"stage1": {"set_loss": "partial"}, "pseudolabel": {"keep_sets": True}},
        {"train": {"ema": 0.9}, "stage2": {"cutmix": 1.0, "views": 2, "complementary_dropout": True}},
    ],
)
@pytest.mark.slow
def test_every_recipe_can_be_timed(make_run, sections):
    settings = make_run(NUM, **sections)
    for stage in ("stage1", "stage2"):
        assert step_times.step_times(settings, stage, NUM)["seconds"] > 0

"""The baseline of a run: the same student on the labeled images alone, of equal length, compared by val image."""

import json

import numpy as np
import pytest
import torch
from report_run import Page
from tiny_run import write_run_file, write_sample_files

from pipeline.dependencies import stages_before
from pipeline.errors import ConfigError
from pipeline.experiment.baseline import against_baseline, baseline_length
from pipeline.inspect.run import format_run, inspect_run
from pipeline.marks import update_marks
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.baseline import baseline
from pipeline.stages.prepare import prepare
from pipeline.stages.report import report
from train.evaluate import evaluate
from train.measure.metrics import mean_iou
from train.stage1 import stage1
from train.stage2 import stage2

STAGES = {"prepare": prepare, "stage1": stage1, "stage2": stage2, "evaluate": evaluate}
TRAIN = {"student": "tiny", "crop": 32, "workers": 0, "threads": 1, "device": "cpu", "total_epochs": 2}


class Called:
    """Runs stages in this process, and counts them."""

    def __init__(self):
        self.stages = []

    def __call__(self, package, stage, run_file, changes):
        self.stages.append(stage)
        settings = load_settings(run_file, changes)
        Run(settings).finish(stage, STAGES[stage](settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that learns from its own labels of unlabeled images, and its baseline. Not to be changed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("baseline")
    write_sample_files(folder / "data", [f"im{i:02}" for i in range(12)])
    run_file = write_run_file(folder, train=TRAIN, evaluate={"workers": 0}, preset="semi-baseline")
    settings, called = load_settings(run_file, {"baseline": True}), Called()
    for name, stage in STAGES.items():
        Run(settings).finish(name, stage(settings))
    Run(settings).finish("baseline", baseline(settings, called))
    return settings, called


def test_it_has_the_steps_of_both_stages_and_is_the_training_of_label_only_settings(finished, tmp_path):
    settings, called = finished
    run, index = Run(settings), Run(settings).samples()
    own = sum(run.recorded(stage)["num_steps"] for stage in ("stage1", "stage2"))
    facts = run.recorded("baseline")
    assert called.stages == ["stage1", "evaluate"]
    assert facts["num_steps"] == baseline_length(settings, index).steps[0]
    assert abs(facts["num_steps"] - own) <= 1.5  # whole epochs of 3 steps: 6 labeled images in batches of 2
    by_hand = load_settings(
        settings.origin.run,
        {"results": str(tmp_path), "preset": "label-only", "stage1.epochs": facts["num_steps"] // 3,
         "stage2.epochs": 0},
    )  # fmt: skip
    for name in ("prepare", "stage1", "evaluate"):
        Run(by_hand).finish(name, STAGES[name](by_hand))
    assert facts["miou"] == Run(by_hand).recorded("evaluate")["students"]["stage1"]["miou"]
    other = run.recorded("evaluate")["students"]["stage2"]["miou"]
    assert facts["miou"] != other


def test_what_has_finished_is_kept(finished):
    settings, _ = finished
    before, again = Run(settings).recorded("baseline"), Called()
    facts = baseline(settings, again)
    Run(settings).finish("baseline", facts)
    assert (facts["miou"], again.stages) == (before["miou"], [])


def test_the_difference_is_that_of_the_two_students(finished):
    settings, _ = finished
    run = Run(settings)
    gap = against_baseline(settings)
    final, alone = run.recorded("evaluate")["students"]["stage2"], run.recorded("baseline")
    assert gap.value == pytest.approx(final["miou"] - alone["miou"])
    assert mean_iou(np.array(final["confusion"]), "skip") == pytest.approx(final["miou"])
    assert gap.low <= gap.value <= gap.high
    shown = f"mIoU of the student minus that of labels alone: {100 * gap.value:+.1f}"
    assert shown in format_run(json.loads(json.dumps(inspect_run(settings))))


def test_the_report_compares_with_it_and_waits_for_it(finished):
    settings, _ = finished
    run = Run(settings)
    run.finish("report", report(settings))
    page = Page(settings)
    final, alone = run.recorded("evaluate")["students"]["stage2"]["miou"], run.recorded("baseline")["miou"]
    assert f"The student reaches {100 * final:.1f} mIoU, {100 * alone:.1f} from labels alone." in page.text
    assert f"The student against labels alone, mIoU: {100 * against_baseline(settings).value:+.1f} points" in page.text
    assert update_marks(run)["report"]
    other = Run(load_settings(settings.origin.run, {"baseline": True, "seed": 1}))
    assert not other.is_current("baseline")
    assert against_baseline(other.settings) is None
    without = Run(load_settings(settings.origin.run))
    before = [stages_before(one.settings, "report") for one in (run, without)]
    assert before == [("evaluate", "baseline"), ("evaluate",)]


def test_a_run_that_is_the_baseline_has_none(finished):
    settings, _ = finished
    with pytest.raises(ConfigError, match=r"this run trains just that; set baseline: false"):
        load_settings(settings.origin.run, {"preset": "label-only", "baseline": True})

"""Training is estimated from steps that were taken, with the numbers of steps that the stages then take."""

import re

import pytest

from pipeline.doctor import examine
from pipeline.doctor.costs import time_findings
from pipeline.doctor.steps import StepTimes, try_training
from pipeline.doctor.survey import survey

TINY = {"train.student": "tiny", "train.crop": 64, "train.workers": 0, "train.threads": 1, "train.device": "cpu"}
NUM_IMAGES = {"labeled": 6, "unlabeled": 4, "val": 2}


def test_an_estimate_is_the_time_of_a_step_times_the_number_of_steps(make_settings):
    settings = make_settings()
    steps = {
        "stage1": StepTimes(600, 2.0, 1_500_000_000, False, "CPU x 2"),
        "stage2": StepTimes(50, 0.5, 3_000_000_000, True, "H100"),
    }
    found = time_findings(survey([], settings.data, None), {}, settings, None, steps)
    first, second, rest = (finding.what for finding in found)
    assert first.startswith("time of stage1: about 20:00 for 600 steps, with 1.50 GB of memory (estimate: 2 s per step")
    assert second.startswith("time of stage2: about 25.0 s for 50 steps, with 3.00 GB of GPU memory (estimate: 0.5 s")
    assert rest == "time of prepare, annotate, calibrate, pseudolabel, evaluate, report: not measured"


def test_several_processes_are_not_timed_and_say_so(make_settings):
    steps, (note,) = try_training(make_settings(**{"train.processes": 2}), NUM_IMAGES)
    assert (steps, note.fix) == ({}, "--set train.processes=1 gives the time on one device")


@pytest.mark.slow
def test_doctor_times_the_training_of_a_run(data, make_settings, tmp_path):
    settings = make_settings(**TINY, **{"stage1.epochs": 3, "stage1.batch_size": 2, "stage2.epochs": 0})
    found = [finding.what for finding in examine(settings, timed=True)]
    (text,) = [what for what in found if what.startswith("time of stage1")]
    found = re.search(r"for (\d+) steps, with ([0-9.]+) GB of memory .* ([0-9.e-]+) s per", text)
    num_steps, gigabytes, seconds = found.groups()
    assert num_steps == "15"  # 3 epochs of 10 images in batches of 2
    assert 0.1 < float(gigabytes) < 4
    assert 0 < float(seconds) < 60
    assert not settings.folder.exists()


@pytest.mark.slow
def test_a_training_that_cannot_work_is_an_error_of_doctor(data, make_settings):
    settings = make_settings(**TINY, **{"train.accumulate": 3, "stage1.epochs": 1, "stage1.batch_size": 4})
    errors = [str(finding) for finding in examine(settings, timed=True) if finding.level == "error"]
    assert any("do not divide equally into 3 micro-batches" in error for error in errors)

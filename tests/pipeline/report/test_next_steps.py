"""The commands that the report proposes, by the state of a run."""

import shlex

import pytest
from held_out_estimates import estimates

from pipeline.report.next_steps import next_steps
from pipeline.run import Run

LABELS = {"pseudolabel": {}}
TRAINED = LABELS | {"evaluate": {"students": {"stage1": {}, "stage2": {}}}}


@pytest.fixture
def steps(make_settings):
    run = Run(make_settings(alpha=0.3))

    def of(receipts, held_out=None, worst=None):
        return [" ".join(shlex.split(step.command)) for step in next_steps(run, receipts, held_out, worst)]

    return of


def has(commands, text):
    return any(text in command for command in commands)


def test_before_training_the_probe_comes_first(steps):
    commands = steps(LABELS)
    assert "conformalsam probe " in commands[0]
    assert commands[0].endswith("--set calibrate.alpha=0.3")
    assert has(commands, "snakemake --cores 8 all --config")
    assert not has(commands, "predict")
    assert not has(steps(LABELS | {"probe": {}}), "conformalsam probe ")


def test_results_that_speak_against_the_labels_lead_to_other_settings(steps):
    better_alone = {"pseudolabel": {"labels_alone_are_better": True}}
    assert steps(better_alone)[0].endswith("preset=label-only")
    worse = estimates(0.9)._replace(against_raw={"value": -0.2, "low": -0.3, "high": -0.1})
    assert has(steps(TRAINED, worse), "rule=raw")
    assert not has(steps(TRAINED, estimates(0.9)), "rule=raw")


def test_a_trained_run_can_be_applied_and_its_worst_image_explained(steps):
    commands = steps(TRAINED, worst="im 3")
    assert commands[-1].endswith("stage2/student")
    assert has(commands, "--id im 3 --xy X,Y")
    assert has(commands, "baseline=true")
    assert not has(steps(TRAINED | {"baseline": {}}), "snakemake")


def test_without_an_annotator_nothing_is_exported(steps):
    assert not has(steps({"evaluate": TRAINED["evaluate"]}), "conformalsam next")

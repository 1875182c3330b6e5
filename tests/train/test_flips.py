"""No flipped bit in what a run keeps of its training is taken for what was written."""

import re

import pytest
from advice import command_in
from flips import missed_by_file
from store_damage import flip_a_bit

from pipeline.errors import TrainingError
from pipeline.inspect import check_run
from pipeline.run import Run
from train.evaluate import evaluate
from train.stage1 import stage1
from train.stage2 import stage2


@pytest.fixture
def trained(make_run):
    """A run from its labels to the scores."""
    settings = make_run(stage1={"epochs": 1}, stage2={"epochs": 1})
    for name, stage in {"stage1": stage1, "stage2": stage2, "evaluate": evaluate}.items():
        Run(settings).finish(name, stage(settings))
    return settings


def test_every_flip_is_found_by_who_reads_the_file(trained):
    missed = missed_by_file(trained, num=3)
    assert {"samples", "stage1", "evaluate", "stage2/checkpoint.pt", "stage1/best/config.json, by itself"} <= {*missed}
    assert {name: bits for name, bits in missed.items() if bits} == {}


def test_every_damaged_file_of_a_run_is_a_finding(trained):
    folder = trained.folder
    known = check_run(trained)["findings"]  # of the labels, which no stage made
    for path in (folder / "stage1/checkpoint.pt", folder / "stage2/best/model.safetensors", *folder.glob("evaluate/*")):
        flip_a_bit(path)
        (finding,) = (finding for finding in check_run(trained)["findings"] if finding not in known)
        assert finding["where"].startswith(str(path))
        flip_a_bit(path)


def test_a_damaged_checkpoint_of_stage_one_names_what_trains_it_again(trained, caplog):
    checkpoint = trained.folder / "stage1/checkpoint.pt"
    before = checkpoint.with_name("student").joinpath("model.safetensors").read_bytes()
    flip_a_bit(checkpoint)
    with pytest.raises(TrainingError) as error:
        stage2(trained)
    assert re.search(r"checkpoint.pt is damaged: .*; run snakemake .*, which trains stage1 from the", str(error.value))
    target, *rerun = command_in(str(error.value), "snakemake")[3:6]
    assert (target, rerun) == ("stage1", ["-R", "stage1"])  # which removes the receipt before it runs the stage
    Run(trained).folder.receipt("stage1").unlink()
    Run(trained).finish("stage1", stage1(trained))
    stage2(trained)
    assert "starting from the beginning, because" in caplog.text
    assert checkpoint.with_name("student").joinpath("model.safetensors").read_bytes() == before

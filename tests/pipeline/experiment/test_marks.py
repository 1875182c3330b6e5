"""A run of an experiment is finished until its settings change or one of its own stages is started again."""

import pytest
from store_damage import flip_a_bit

from pipeline.experiment.running import receipts_of
from pipeline.experiment.workflow import is_finished
from pipeline.receipt import write_receipt

STAGE = "experiment-run"
TRACKED = {"seed": 0}


@pytest.fixture
def receipt(tmp_path):
    """Receipt of a run that has trained stage1 on the samples of another folder, whose receipt of prepare is a link."""
    (tmp_path / "base").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "base/prepare.json").write_text("1")
    (tmp_path / "run/prepare.json").symlink_to("../base/prepare.json")
    (tmp_path / "run/stage1.json").write_text("1")
    facts = {"receipts": receipts_of(tmp_path / "run", ("prepare", "stage1"))}
    write_receipt(tmp_path / "run/run.json", STAGE, facts, TRACKED)
    return tmp_path / "run/run.json"


def test_a_run_is_finished_with_its_settings_only(receipt):
    assert is_finished(receipt, STAGE, TRACKED)
    assert not is_finished(receipt, STAGE, {"seed": 1})


CHANGES = {
    "its stage has finished again": lambda folder: (folder / "stage1.json").write_text("2"),
    "its stage has been killed": lambda folder: (folder / "stage1.json").unlink(),
    "its receipt is damaged": lambda folder: flip_a_bit(folder / "run.json"),
    "its receipt is gone": lambda folder: (folder / "run.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_finished_once(receipt, change):
    CHANGES[change](receipt.parent)
    assert not is_finished(receipt, STAGE, TRACKED)


def test_the_same_samples_listed_again_are_no_reason_to_train_again(receipt):
    (receipt.parent / "prepare.json").write_text("2")
    assert is_finished(receipt, STAGE, TRACKED)


def test_a_run_that_is_left_out_is_finished(receipt):
    write_receipt(receipt, STAGE, {"left_out": "no masks"}, TRACKED)
    assert is_finished(receipt, STAGE, TRACKED)

import logging

import pytest
import torch

from train.engine.checkpoint import load_checkpoint, save_checkpoint

CONTENT = {"step": 3, "history": [{"loss": 0.5, "miou": None}], "model": {"weight": torch.arange(4.0)}}


def test_comes_back_as_it_was(tmp_path):
    path = tmp_path / "stage1" / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    again = load_checkpoint(path)
    assert torch.equal(again["model"].pop("weight"), torch.arange(4.0))
    assert again == {"step": 3, "history": CONTENT["history"], "model": {}}
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_there_may_be_none(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint.pt") is None


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not one"])
def test_an_unreadable_one_is_reported_and_ignored(tmp_path, caplog, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(path) is None
    assert "is unreadable" in caplog.text


def test_a_failing_write_keeps_the_previous_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": lambda: None})
    assert load_checkpoint(path)["step"] == 3

import hashlib
import zipfile

import pytest
import torch
from flips import missed_flips

from train.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

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
def test_one_that_is_cut_off_is_refused(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="does not match the SHA-256 at its end"):
        load_checkpoint(path)


def test_one_of_an_earlier_version_is_not_called_damaged(tmp_path):
    torch.save(CONTENT, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="written by an earlier version of conformalsam, which gave it no SHA"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    assert missed_flips(path, lambda: is_refused(path)) == []


def is_refused(path):
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


def test_others_read_it_as_a_file_of_torch_and_as_a_zip_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    assert torch.equal(torch.load(path)["model"]["weight"], CONTENT["model"]["weight"])
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.comment == b"sha256 " + hashlib.sha256(path.read_bytes()[:-71]).hexdigest().encode()


def test_a_failing_write_keeps_the_previous_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_checkpoint(path, {"step": lambda: None})
    assert load_checkpoint(path)["step"] == 3

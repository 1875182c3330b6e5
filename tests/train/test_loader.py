"""Loaders: the same items through shared memory and through pipes, and the death of a worker with its reason."""

import os
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from pipeline.errors import DatasetError, TrainingError
from train.loader import _loaded, explained_deaths, has_room, loaded


class Squares(Dataset):
    """Item k: a tensor of k squared and an array, or what is done instead at one key."""

    def __init__(self, special=-1, action=None):
        self.special, self.action = special, action

    def __getitem__(self, key):
        if key == self.special:
            self.action()
        return torch.full((2, 3), key * key, dtype=torch.uint8), np.arange(key), f"item {key}"


BATCHES = [[0, 3], [2], [5, 1]]


@pytest.mark.parametrize(("workers", "through_pipes"), [(0, False), (1, False), (1, True)])
def test_batches_are_the_items_in_order_whatever_they_pass_through(workers, through_pipes):
    batches = list(_loaded(Squares(), BATCHES, workers, False, through_pipes))
    assert [[text for _, _, text in batch] for batch in batches] == [
        [f"item {key}" for key in keys] for keys in BATCHES
    ]
    for batch, keys in zip(batches, BATCHES, strict=True):
        for (squares, numbers, _), key in zip(batch, keys, strict=True):
            assert squares.dtype == torch.uint8
            assert squares.tolist() == [[key * key] * 3] * 2
            assert numbers.tolist() == list(range(key))


def test_there_is_room_for_what_is_free(tmp_path):
    assert has_room(1, tmp_path)
    assert not has_room(10**18, tmp_path)
    assert has_room(10**18, tmp_path / "missing")


def test_batches_that_have_no_room_are_said_and_read(caplog):
    caplog.set_level("INFO")
    assert len(list(loaded(Squares(), BATCHES, 10**17, workers=1))) == len(BATCHES)
    (line,) = caplog.messages
    assert "has no room for 300000000000.0 MB of images, so 1 workers pass them on through pipes" in line
    assert line.endswith("docker run --shm-size=300000000001m")


def refuse():
    raise DatasetError("image 2 has changed")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("through_pipes", [False, True])
def test_an_error_for_users_is_raised_in_the_main_process(through_pipes):
    batches = _loaded(Squares(2, refuse), BATCHES, 1, False, through_pipes)
    assert len(next(batches)) == 2
    with pytest.raises(DatasetError, match=r"^image 2 has changed$"):
        next(batches)


def test_a_worker_that_is_killed_ends_the_command_with_its_reason():
    message = r"reads images has ended .*DataLoader worker .*; lower train.workers, or set it to 0, and run"
    with pytest.raises(TrainingError, match=message), explained_deaths("train.workers"):
        list(loaded(Squares(2, die), BATCHES, 1, workers=1))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^a size$"), explained_deaths("train.workers"):
        raise RuntimeError("a size")

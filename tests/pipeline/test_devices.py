"""A device that a setting names must exist; auto takes a GPU if there is one."""

import pytest
import torch

from pipeline.devices import device_of
from pipeline.errors import ConfigError


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests a computer without a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_missing_gpu_is_an_error_and_auto_is_the_cpu(name):
    found = rf"^compute\.device is {name}, but torch finds 0 CUDA devices; set compute\.device to auto or cpu"
    with pytest.raises(ConfigError, match=found):
        device_of("compute", name)
    assert {device_of("compute", other) for other in ("auto", "cpu")} == {"cpu"}


def test_devices_are_counted_from_zero(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_of("train", name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(ConfigError, match="finds 2 CUDA devices"):
        device_of("train", "cuda:2")

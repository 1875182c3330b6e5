"""Folders and hub names of strangers: no code of theirs runs, and a commit pins what is read."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import GatedRepoError

from pipeline.errors import NetworkError
from pipeline.pretrained import cached_folder, config_of
from train.students.files import weights_folder

KERNEL = "kernels-community/attention"
SEGFORMER = {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]}


def write(folder, content):
    (folder / "config.json").write_text(json.dumps(content))


def test_attention_from_the_hub_is_refused(tmp_path):
    write(tmp_path, SEGFORMER | {"attn_implementation": KERNEL})
    with pytest.raises(NetworkError, match=rf"config.json asks for the attention '{KERNEL}', .* expected one of eager"):
        config_of(tmp_path)


def test_attention_from_the_hub_in_a_backbone_has_no_effect(tmp_path):
    backbone = {"model_type": "convnext", "attn_implementation": KERNEL}
    write(tmp_path, {"model_type": "upernet", "backbone_config": backbone})
    assert config_of(tmp_path).backbone_config._attn_implementation is None


@pytest.mark.parametrize("attention", ["eager", "sdpa", None])
def test_attention_of_torch_is_accepted(tmp_path, attention):
    write(tmp_path, SEGFORMER | {"attn_implementation": attention})
    assert config_of(tmp_path).model_type == "segformer"


def test_python_code_in_a_folder_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Config: pass\n")
    write(tmp_path, {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    with pytest.raises(NetworkError) as error:
        config_of(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_a_commit_pins_the_weights_of_a_hub_name(tmp_path, monkeypatch, caplog):
    """The cache of the hub with two commits, of which `main` is the first."""
    repository, (first, second) = tmp_path / "models--some--weights", ("a" * 40, "b" * 40)
    for commit in (first, second):
        (repository / "snapshots" / commit).mkdir(parents=True)
        write(repository / "snapshots" / commit, SEGFORMER)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(first)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    caplog.set_level("INFO")
    assert weights_folder("some/weights").name == first
    assert f"some/weights is revision {first}; to keep it, set train.weights to some/weights@{first}" in caplog.text
    assert weights_folder(f"some/weights@{second}").name == second
    assert cached_folder("some/weights").name == first
    assert cached_folder(f"some/weights@{second}").name == second
    assert cached_folder("other/weights") is cached_folder("no name") is None
    with pytest.raises(NetworkError, match="the hub gave no such model"):
        weights_folder(f"some/weights@{'c' * 40}")


def test_gated_weights_are_refused_with_the_page_that_gives_access(monkeypatch):
    def gated(*_, **__):
        raise GatedRepoError("403 Client Error", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(NetworkError, match=r"accept it on https://huggingface\.co/some/gated, and run hf auth login$"):
        weights_folder("some/gated@main")

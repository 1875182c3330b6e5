"""convert-seem: a folder appears only when it is complete, and every failure is one line."""

import logging
import shutil

import pytest
import torch
from advice import command_in
from click.testing import CliRunner
from tiny_seem import write_checkpoint

from pipeline.__main__ import main
from pipeline.seem import Seem


@pytest.fixture
def published(tmp_path):
    """A tiny checkpoint in the published format, with the tokenizer where `download` puts it."""
    return write_checkpoint(tmp_path / "seem.pt", "focal_dw")


@pytest.fixture
def convert(tmp_path):
    def call(*arguments):
        return CliRunner().invoke(main, ["convert-seem", *map(str, arguments)])

    return call


def test_the_folder_loads_and_names_its_checkpoint(convert, published, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        result = convert(published, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"annotate: {{annotator: seem, seem: {{checkpoint: {tmp_path / 'out'}}}}}" in result.output
    assert "focal_dw of width 8, sha256 " in caplog.text
    assert "none of the published files" in caplog.text
    assert (
        "left out 8 tensors used only for clicks and training: criterion.empty_weight, dilation_kernel, " in caplog.text
    )
    seem = Seem.from_pretrained(tmp_path / "out")
    assert seem.config.backbone == "focal_dw"
    assert seem.config.source_sha256 in caplog.text


def test_a_published_file_is_recognised_by_its_sha256(convert, published, tmp_path, caplog, monkeypatch):
    from pipeline.annotators.download import Published
    from pipeline.seem.checkpoint import file_sha256

    facts = ("xdecoder/SEEM", "seem.pt", published.stat().st_size, file_sha256(published), "d" * 40)
    known = {"seem-focalt-v0": Published(*facts)}
    monkeypatch.setattr("pipeline.annotators.download.CHECKPOINTS", known)
    with caplog.at_level(logging.INFO):
        convert(published, tmp_path / "out")
    assert "(seem-focalt-v0 as published)" in caplog.text


def test_a_tokenizer_elsewhere_can_be_named(convert, published, tmp_path):
    (published.parent / "tokenizer").rename(tmp_path / "elsewhere")
    assert convert(published, tmp_path / "out", "--tokenizer", tmp_path / "elsewhere").exit_code == 0


def test_a_killed_conversion_leaves_nothing_behind_when_it_is_run_again(convert, published, tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part/model.safetensors").write_bytes(b"half")
    (tmp_path / "out").mkdir()  # an empty folder may be given
    assert convert(published, tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out.part").exists()
    assert (tmp_path / "out/model.safetensors").stat().st_size > 4


def test_an_existing_folder_is_not_overwritten(convert, published, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    result = convert(published, tmp_path / "out")
    assert result.exit_code == 1
    assert (tmp_path / "out/mine.txt").read_text() == "kept"
    remove = command_in(result.output, "rm")
    assert remove == ["rm", "-r", str(tmp_path / "out")]
    shutil.rmtree(remove[-1])
    assert convert(published, tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("break_it", ["tokenizer", "truncated", "names"])
def test_a_failure_is_one_line_and_leaves_nothing(convert, published, tmp_path, break_it):
    if break_it == "tokenizer":
        (published.parent / "tokenizer/merges.txt").unlink()
    elif break_it == "truncated":
        published.write_bytes(published.read_bytes()[:-500])
    else:
        weights = torch.load(published, weights_only=True)
        torch.save({**weights, "extra": torch.zeros(1)}, published)
    before = sorted(tmp_path.iterdir())
    result = convert(published, tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.output
    assert sorted(tmp_path.iterdir()) == before

"""The command line as a whole: how help lists the commands, and how each takes the run."""

import errno
import os
import platform
import re
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner
from tiny_run import write_run_file

from pipeline.__main__ import main as pipeline_main
from pipeline.cli import SECTIONS, CommandGroup, explained_disk, run_argument, run_or_store
from pipeline.errors import DiskError
from pipeline.files import replacing
from train.__main__ import main as train_main

COMMANDS = pipeline_main.commands | train_main.commands


@pytest.fixture(scope="module")
def everything():
    """What the console script offers: the commands of both packages."""
    return CommandGroup("conformalsam", commands=COMMANDS)


def test_the_version_comes_with_the_environment():
    lines = CliRunner().invoke(pipeline_main, ["--version"]).output.splitlines()
    assert lines[0] == f"conformalsam {version('conformalsam')}"
    assert f"torch {version('torch')}" in lines
    assert lines[-1].startswith(f"Python {platform.python_version()}, ")


def test_help_lists_every_command_once_under_its_section(everything):
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(name for name, command in COMMANDS.items() if not command.hidden)
    text = CliRunner().invoke(everything, ["--help"], terminal_width=80).output
    assert re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE) == ["Options", *SECTIONS]
    assert re.findall(r"^  (\w[\w-]+)  ", text, re.MULTILINE) == listed


@pytest.mark.parametrize("arguments", [[], ["splits"]])
def test_no_first_line_is_cut_off_at_80_columns(everything, arguments):
    text = CliRunner().invoke(everything, [*arguments, "--help"], terminal_width=80).output
    assert "..." not in text.partition("Options:")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_every_command_that_reads_a_run_takes_it_as_an_argument():
    without = {name for name, command in COMMANDS.items() if "overrides" not in {p.name for p in command.params}}
    assert without == {
        *("run", "annotators", "settings", "presets", "predict", "splits"),
        *("download", "cache", "convert-seem", "convert-sbd", "convert-coco", "step-times"),
    }
    for name in COMMANDS.keys() - without - {"init"}:
        arguments = [p for p in COMMANDS[name].params if isinstance(p, click.Argument)]
        assert arguments[0].name in ("run", "target"), name
        assert "RUN is a run file, or its name in config/." in COMMANDS[name].help or COMMANDS[name].hidden, name


def test_a_command_gets_the_settings_of_its_run(tmp_path, monkeypatch):
    seen = []
    command = click.command()(run_argument(lambda settings: seen.append(settings)))
    run_file = write_run_file(tmp_path)
    assert CliRunner().invoke(command, [str(run_file), "--set", "alpha=0.3"]).exit_code == 0
    (tmp_path / "config").mkdir()
    run_file.rename(tmp_path / "config/demo.yaml")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(command, []).exit_code == 0
    assert [(settings.name, settings.calibrate.alpha) for settings in seen] == [("tiny", 0.3), ("demo", 0.2)]


def test_a_command_about_a_run_or_a_store_tells_them_apart(tmp_path):
    seen = []
    group = CommandGroup(commands={"look": click.command("look")(run_or_store(lambda target: seen.append(target)))})
    store = tmp_path / "labels.zarr"  # missing or not
    assert CliRunner().invoke(group, ["look", str(store)]).exit_code == 0
    assert CliRunner().invoke(group, ["look", str(write_run_file(tmp_path))]).exit_code == 0
    assert seen[0] == store
    assert seen[1].name == "tiny"
    results = tmp_path / "results/tiny"
    results.mkdir(parents=True)
    (results / "samples.json").write_text("{}")
    refused = CliRunner().invoke(group, ["look", str(results)])
    assert refused.exit_code == 1
    assert f"{results} is the folder of a run's results; give the run instead: tiny" in refused.output


def invoke(action):
    return CliRunner().invoke(CommandGroup(commands={"act": click.command("act")(action)}), ["act"])


def test_a_full_disk_ends_a_command_with_one_line():
    def fill():
        with open("/dev/full", "w") as full:  # what is written there finds no space left
            full.write("something")

    def fill_below():
        try:
            fill()
        except OSError as error:
            raise RuntimeError("a chunk failed") from error

    def fill_from_another_language():
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    for action in (fill, fill_below, fill_from_another_language):
        ended = invoke(action)
        assert ended.exit_code == 1
        assert ended.output == (
            "error: a file could not be written: No space left on device; free some space there, then run the same "
            "command again: finished work is kept\n"
        )


def test_a_folder_that_cannot_be_written_is_named():
    def write():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/results")

    ended = invoke(write)
    assert ended.exit_code == 1
    assert ended.output == (
        "error: /mnt/results: Read-only file system; make it writable, or write to another folder, then run the "
        "same command again: finished work is kept\n"
    )


def test_a_file_of_a_stage_on_a_full_disk_is_named_with_the_free_space(tmp_path):
    def fill(path):
        with replacing(path) as part:
            part.symlink_to("/dev/full")
            part.write_text("something")

    full = rf"^{tmp_path}/new/a.json: No space left on device \(\d+\.\d MB free\); free some space there, then run"
    with pytest.raises(DiskError, match=full), explained_disk(tmp_path / "run"):
        fill(tmp_path / "new/a.json")
    assert list((tmp_path / "new").iterdir()) == []
    below = rf"^a file in {tmp_path}/run could not be written: No space left on device \(\d+\.\d MB free\); free"
    with pytest.raises(DiskError, match=below), explained_disk(tmp_path / "run"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_any_other_error_stays_what_it_is():
    def fail():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "lost")

    assert isinstance(invoke(fail).exception, FileNotFoundError)

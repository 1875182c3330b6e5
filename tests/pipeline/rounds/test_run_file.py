"""The run file of the next round."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.errors import AnnotatorError, ConfigError
from pipeline.rounds.run_file import Choices, next_name, write_next_round
from pipeline.run_file import load_settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mine", "mine_round2"),
        ("mine_round2", "mine_round3"),
        ("mine_round9", "mine_round10"),
        ("round2", "round2_round2"),
    ],
)
def test_rounds_are_counted_in_the_name(name, expected):
    assert next_name(name) == expected


@pytest.fixture
def run_file(finished, tmp_path):
    """The run file of the finished run, in a folder of its own."""
    return Path(shutil.copy(finished.first.origin.run, tmp_path / "tiny.yaml"))


def test_next_round_writes_a_run_annotated_by_the_students_and_prints_its_command(run_file):
    done = CliRunner().invoke(main, ["next-round", str(run_file), "--folds", "3", "--set", "calibrate.alpha=0.3"])
    assert done.exit_code == 0, done.output
    path = run_file.with_name("tiny_round2.yaml")
    first, second = load_settings(run_file), load_settings(path)
    assert (second.name, second.annotate.annotator, second.calibrate.alpha) == ("tiny_round2", "student", 0.3)
    assert second.annotate.student.model_dump() == {"run": "tiny", "folds": 3}
    assert second.data == first.data
    assert second.train == first.train
    lines = done.output.splitlines()
    assert lines[0] == f"wrote     {path}"
    assert "run tiny 3 times more, each time on 4 or more of its 6 masks" in lines[1]
    assert lines[-1] == f"next      snakemake --cores 8 all --config run={path}"


def test_the_next_round_does_not_take_over_the_views_of_the_last_annotator(run_file):
    write_next_round(Choices(str(run_file), {"annotate.views.flips": True}, folds=2))
    assert load_settings(run_file.with_name("tiny_round2.yaml")).annotate.views is None


def test_a_name_that_is_taken_is_refused(run_file):
    write_next_round(Choices(str(run_file), {}, folds=2, name="mine"))
    with pytest.raises(ConfigError, match=r"mine.yaml exists and is not overwritten; .* rm "):
        write_next_round(Choices(str(run_file), {}, folds=2, name="mine"))


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"name": "other"}, AnnotatorError, "the training of run other has not finished; run snakemake"),
        ({"stage1.labels": "none"}, ConfigError, "trains without pseudo-labels .* add --set preset=paper"),
    ],
)
def test_a_run_without_a_next_round_is_refused_and_no_file_is_left(run_file, overrides, error, message):
    with pytest.raises(error, match=message):
        write_next_round(Choices(str(run_file), overrides, folds=2))
    assert sorted(path.name for path in run_file.parent.iterdir()) == ["tiny.yaml"]

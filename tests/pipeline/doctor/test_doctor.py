"""All checks together, and the command: every finding is printed, and the exit code is 1 after an error."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_run import write_run_file

from pipeline.cli import CommandGroup
from pipeline.commands.doctor import doctor
from pipeline.demo.scenes import write_scenes


@pytest.fixture
def call(data, tmp_path):
    """Run the command on the run file; returns its result."""
    run_file = write_run_file(tmp_path)

    def invoke(*options):
        group = CommandGroup("conformalsam", commands={"doctor": doctor})
        return CliRunner().invoke(group, ["doctor", str(run_file), *options], catch_exceptions=False)

    return invoke


def test_a_correct_run_has_notes_only(data, findings):
    assert {finding.level for finding in findings()} == {"note"}


def test_all_mistakes_are_found_at_once_errors_first(data, labeled, findings):
    (data / labeled[0].image).write_bytes(b"no image")
    Image.fromarray(np.full((24, 32), 77, np.uint8)).save(data / labeled[1].mask)
    seem = {"checkpoint": "gone"}
    found = findings(alpha=0.05, annotator="seem", **{"annotate.seem": seem, "train.weights": "gone.pth"})
    errors = [str(finding) for finding in found if finding.level == "error"]
    for text in (
        "is no image of a known format",
        "without a class: 77",
        "no pixel gets a pseudo-label",
        "no config.json",
        "no such file",
    ):
        assert any(text in error for error in errors), text
    assert len(errors) == 5
    assert [finding.level for finding in found[:5]] == ["error"] * 5


def test_nothing_is_written(data, tmp_path, findings):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    findings(timed=True)
    after = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name not in ("tiny.yaml", "Snakefile")
    }
    assert set(after) - set(before) == set()
    assert all(before[path] == time for path, time in after.items() if path != tmp_path)


def test_a_quick_check_is_noted_and_reports_no_class_as_absent(data, findings):
    lines = [str(finding) for finding in findings(quick=2)]
    assert any("only 2 of them were checked (--quick)" in line for line in lines)
    assert not any("in no labeled image" in line or "in no val image" in line for line in lines)


def test_the_command_of_a_correct_run_ends_with_the_next_command(call, tmp_path):
    result = call("--set", "alpha=0.3")
    assert result.exit_code == 0
    command = f"snakemake --cores 8 all --config run={tmp_path / 'tiny.yaml'} alpha=0.3"
    assert result.stdout.splitlines()[-1] == f"no errors; run {command}"


def test_the_command_fails_where_there_is_an_error(call):
    result = call("--set", "alpha=0.01")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "1 error, 0 warnings: fix the errors first"
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("alpha", "code"), [("0.3", 0), ("0.01", 1)])
def test_json_has_the_same_findings(call, alpha, code):
    result = call("--set", f"alpha={alpha}", "--json")
    assert result.exit_code == code
    facts = json.loads(result.stdout)
    assert facts["may_go_on"] == (code == 0)
    assert facts["counts"]["error"] == code
    assert {"level", "what", "where", "fix"} == set(facts["findings"][0])


def test_a_mistake_in_the_run_file_is_one_line(call):
    result = call("--set", "alhpa=0.1")
    assert result.exit_code == 1
    assert "error: alhpa is not a setting; did you mean calibrate.alpha?" in result.output


def test_scenes_that_prepare_has_not_drawn_yet_are_no_error(tmp_path, only, findings):
    overrides = {
        "data.layout": "voc",
        "data.scenes": {"num_train": 8, "num_val": 2},
        "data.splits": {"num_labeled": 6},
        "data.unknown_values": "ignore",
    }
    assert only("prepare draws the scenes", **overrides).level == "note"
    write_scenes(tmp_path / "data", domain="target", seed=0, num_train=8, num_val=2)
    assert any("images: 6 labeled, 2 unlabeled, 2 val" in str(finding) for finding in findings(**overrides))

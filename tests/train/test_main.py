import json
import re
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from pipeline.receipt import read_receipt
from train.__main__ import main


@pytest.fixture
def run_file(make_run, tmp_path):
    settings = make_run()
    path = tmp_path / "shapes.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    return path, settings


def test_the_three_commands_write_three_receipts(run_file):
    path, settings = run_file
    for stage in ("stage1", "stage2", "evaluate"):
        result = CliRunner().invoke(main, [stage, str(path)])
        assert result.exit_code == 0, result.output
        assert read_receipt(settings.folder / f"{stage}.json", stage)["stage"] == stage
    tracked = read_receipt(settings.folder / "stage1.json", "stage1")["settings"]["stage1"]
    assert (tracked["epochs"], tracked["batch_size"], tracked["labels"]) == (2, 2, "calibrated")
    scores = json.loads((settings.folder / "evaluate.json").read_text())["students"]
    assert set(scores) == {"stage1", "stage2"}


def test_an_error_of_the_user_is_one_line_and_exit_code_1(run_file):
    path, _ = run_file
    result = CliRunner().invoke(main, ["stage2", str(path)])
    assert result.exit_code == 1
    assert "error: no receipt " in result.output


def test_runs_as_a_module():
    command = [sys.executable, "-m", "train", "stage1", "nowhere"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no run file nowhere")


def test_commands_come_in_the_order_of_the_data_flow():
    result = CliRunner().invoke(main, ["--help"])
    commands = re.findall(r"^  (\w+) +[A-Z]", result.output.partition("Stages:")[2], re.MULTILINE)
    assert commands == ["probe", "stage1", "stage2", "evaluate", "presets", "predict"]


def test_the_command_line_starts_without_torch():
    code = "import sys, train.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

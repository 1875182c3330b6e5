"""The command on a calibrated run."""

import json

import pytest
from click.testing import CliRunner
from stage_runs import run_stages
from tiny_run import write_run_file

from pipeline.run_file import load_settings
from train.__main__ import main

SMALL = {"encoder": "tiny", "weights": "random", "crop": 32, "views": 1, "steps": 2, "batch_size": 4, "folds": 2}


@pytest.fixture
def calibrated(tmp_path, write_images):
    """Run file of a run that has been calibrated for rule probe."""
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)], size=(40, 48))
    sections = {"probe": {**SMALL, "candidates": 1, "unlabeled_weights": [1.0, 0.5]}, "pseudolabel": {"rule": "probe"}}
    run_file = write_run_file(tmp_path, **sections)
    run_stages(load_settings(run_file), "prepare", "annotate", "calibrate")
    return run_file


def call(run_file, *arguments):
    return CliRunner().invoke(main, ["probe", str(run_file), *arguments], catch_exceptions=False)


def test_pseudolabel_uses_its_result_and_a_second_call_trains_nothing(calibrated):
    finished = call(calibrated)
    assert finished.exit_code == 0, finished.output
    settings = load_settings(calibrated)
    path = settings.folder / "probe.json"
    receipt = json.loads(path.read_text())
    calibration = json.loads((settings.folder / "calibrate.json").read_text())
    assert receipt["fingerprint"] == calibration["fingerprint"]
    assert [(row["labels"], row["weight"]) for row in receipt["outcomes"]] == [
        ("none", 0.0), ("raw", 1.0), ("raw", 0.5), ("calibrated", 1.0), ("calibrated", 0.5),
    ]  # fmt: skip
    assert receipt["chosen"].keys() == {"labels", "variant", "alpha", "rule", "weight"}
    assert receipt["verdict"] in finished.output
    assert receipt["command"] in finished.output
    assert finished.output.count("-> ") == 1
    before = path.stat().st_mtime_ns
    assert call(calibrated).output == finished.output
    assert path.stat().st_mtime_ns == before
    run_stages(settings, "pseudolabel")  # rule probe reads it
    labeled = json.loads((settings.folder / "pseudolabel.json").read_text())
    if receipt["chosen"]["labels"] == "calibrated":
        assert {name: labeled[name] for name in ("variant", "alpha", "rule")} == {
            name: receipt["chosen"][name] for name in ("variant", "alpha", "rule")
        }
    assert labeled["is_automatic"]
    assert call(calibrated).output == finished.output  # the planes of the labels equal those of the maps


def test_too_few_labeled_images_are_an_error_that_names_the_setting(calibrated):
    finished = call(calibrated, "--set", "probe.folds=7")
    assert finished.exit_code == 1
    assert "probe.folds is 7, but the probe has 6 labeled" in finished.output

"""The state of a run: which stages have finished, with which numbers, and which stores there are."""

import json
import re

import pytest
from click.testing import CliRunner
from stage_runs import run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.commands.inspect import inspect as command
from pipeline.inspect import format_run, inspect_run
from pipeline.receipt import read_receipt
from pipeline.run_file import load_settings

NUMBERS = ("prepare", "pseudolabel")


@pytest.fixture
def settings(tmp_path):
    write_sample_files(tmp_path / "data", [f"im{i}" for i in range(12)])
    return load_settings(write_run_file(tmp_path))


@pytest.fixture
def labeled(settings):
    """A run up to its labels."""
    run_stages(settings)
    return settings


def test_a_run_that_has_not_started_names_every_stage_and_the_command(settings, tmp_path):
    facts = inspect_run(settings)
    assert set(facts["stages"].values()) == {None}
    assert (facts["stores"], facts["report"]) == ([], None)
    assert facts["next"] == f"snakemake --cores 8 all --config run={tmp_path}/tiny.yaml"
    lines = format_run(facts).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("run", "prepare", "annotate", "calibrate", "pseudolabel"),
        *("stage1", "stage2", "evaluate", "report", "next"),
    ]


def test_finished_stages_have_their_numbers_and_stores_their_progress(labeled):
    facts = inspect_run(labeled)
    prepare, labels = (facts["stages"][stage]["numbers"] for stage in NUMBERS)
    assert (prepare["labeled"], prepare["unlabeled"], prepare["val"]) == (6, 4, 2)
    assert (labels["rule"], labels["alpha"], labels["images"], labels["failed"]) == ("paper", 0.2, 4, 0)
    assert facts["stages"]["stage1"] is None
    assert [store["complete"] for store in facts["stores"]] == [True] * 3
    assert [store["done"] for store in facts["stores"]] == [10, 6, 4]
    lines = format_run(facts).splitlines()
    assert any(f"keep rate {labels['keep_rate']:.3g}" in line for line in lines)
    assert [line.split(maxsplit=1)[0] for line in lines[-4:-2]] == ["verdict", "shift"]
    assert f"the annotator's own argmax of {100 * _raw_precision(labeled):.1f} %" in lines[-4]
    assert f"keep rate {100 * labels['keep_rate']:.1f} % against " in lines[-3]
    json.dumps(facts, allow_nan=False)


def test_stages_of_other_settings_are_marked_from_the_first_that_they_change(labeled, tmp_path):
    facts = inspect_run(load_settings(tmp_path / "tiny.yaml", {"alpha": 0.3}))
    marked = [stage for stage, found in facts["stages"].items() if found and found["other_settings"]]
    assert marked == ["calibrate", "pseudolabel"]
    assert "alpha=0.3" in facts["next"]


def test_stages_that_a_recipe_has_not_are_not_listed(tmp_path):
    settings = load_settings(write_run_file(tmp_path), {"preset": "label-only"})
    assert list(inspect_run(settings)["stages"]) == ["prepare", "stage1", "stage2", "evaluate", "report"]


def test_a_store_that_cannot_be_read_is_one_line_and_the_others_are_shown(labeled):
    (labeled.folder / "labels.zarr/zarr.json").write_text("{")
    first, *others = reversed(inspect_run(labeled)["stores"])
    assert "labels.zarr/zarr.json is damaged" in first["problem"]
    assert all(store["complete"] for store in others)


def test_a_damaged_receipt_is_named_with_the_command(labeled):
    (labeled.folder / "calibrate.json").write_text('{"stage": "calibrate"}')
    facts = inspect_run(labeled)
    (line,) = (line for line in format_run(facts).splitlines() if line.startswith("calibrate"))
    assert re.search(r"calibrate.json has no digest at its end: .*; run snakemake .*/tiny.yaml", line)
    assert facts["next"] is not None
    assert facts["stages"]["pseudolabel"]["numbers"]["rule"] == "paper"


def test_the_command_shows_a_run_and_never_advises_to_remove_it(labeled, tmp_path):
    run_file = tmp_path / "tiny.yaml"
    shown = CliRunner().invoke(command, [str(run_file), "--set", "seed=1"])
    assert shown.exit_code == 0, shown.output
    assert "rm " not in shown.output
    assert "made with other settings" not in shown.output  # no label depends on the seed
    assert f"next        snakemake --cores 8 all --config run={run_file} seed=1" in shown.output
    assert json.loads(CliRunner().invoke(command, [str(run_file), "--json"]).output)["run"] == "tiny"
    store = CliRunner().invoke(command, [str(run_file), "--repair"])
    assert store.exit_code == 2
    assert f"need a store, e.g. {labeled.folder}/labels.zarr" in store.output


def _raw_precision(settings):
    return read_receipt(settings.folder / "calibrate.json", "calibrate")["held_out"]["raw"]["precision"]["value"]

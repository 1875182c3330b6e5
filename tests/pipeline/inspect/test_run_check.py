"""All of a run is checked, and every damage is named with the command that fixes it."""

import json
import shutil

import pytest
from receipts import facts_of
from store_damage import flip_a_bit, follow, run_command

from pipeline.digests import digests_of, write_sums
from pipeline.files import write_text
from pipeline.inspect import check_run, format_run_check
from pipeline.record import write_record
from pipeline.run import Run

RECEIPTS = ["prepare", "annotate", "calibrate", "pseudolabel"]


def only_finding(run):
    (finding,) = check_run(run)["findings"]
    return finding


def test_nothing_is_found_in_a_run_that_is_whole(run):
    facts = check_run(run)
    assert facts["findings"] == []
    assert facts["checked"]["receipts"] == RECEIPTS
    assert facts["checked"]["stores"] == ["probs.zarr", "calibration.zarr", "labels.zarr"]
    assert format_run_check(facts).splitlines()[-1].split() == ["found", "nothing"]
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize("name", ["samples", *RECEIPTS])
def test_a_damaged_record_is_made_again_by_its_command(run, name):
    flip_a_bit(run.folder / f"{name}.json")
    finding = only_finding(run)
    assert finding["where"].startswith(f"{run.folder}/{name}.json does not match the digest at its end")
    follow(finding["command"], run)
    assert check_run(run)["findings"] == []


def test_samples_that_are_gone_are_made_again(run):
    (run.folder / "samples.json").unlink()
    finding = check_run(run)["findings"][0]
    assert finding["where"] == f"no sample index {run.folder}/samples.json"
    Run(run).folder.receipt("prepare").unlink()  # as Snakemake does for an output that is missing
    follow(finding["command"], run)
    assert check_run(run)["findings"] == []


@pytest.mark.parametrize("store", ["probs.zarr", "calibration.zarr", "labels.zarr"])
def test_damage_of_a_store_is_found(run, store):
    array = {"probs.zarr": "logits", "calibration.zarr": "score", "labels.zarr": "label"}[store]
    flip_a_bit(next(path for path in sorted((run.folder / store / array / "c").rglob("*")) if path.is_file()))
    finding = only_finding(run)
    assert finding["what"] == "corrupt"
    follow(finding["command"], run)
    assert check_run(run)["findings"] == []


def test_maps_may_be_deleted_once_there_are_labels_and_labels_may_not(run):
    shutil.rmtree(run.folder / "probs.zarr")
    assert check_run(run)["findings"] == []
    shutil.rmtree(run.folder / "labels.zarr")
    finding = only_finding(run)
    assert finding["where"].startswith(f"{run.folder}/labels.zarr is missing, but pseudolabel has finished")
    assert " pseudolabel -R pseudolabel " in finding["command"]


def test_a_run_that_has_not_started_has_no_findings(run):
    shutil.rmtree(run.folder)
    assert check_run(run)["findings"] == []


@pytest.fixture
def trained(run):
    """The run with a folder of Stage I as training leaves it, but that its files are short."""
    folder = run.folder / "stage1"
    for name in ("student", "best"):
        write_text(folder / name / "model.safetensors", "weights")
        write_sums(folder / name)
    write_text(folder / "checkpoint.pt", "state")
    files = digests_of(folder, [folder / "checkpoint.pt", *folder.glob("*/*")])
    Run(run).finish("stage1", facts_of("stage1", files=files))
    write_text(run.folder / "evaluate/areas.npz", "areas")
    files = digests_of(run.folder / "evaluate", [run.folder / "evaluate/areas.npz"])
    Run(run).finish("evaluate", facts_of("evaluate", files=files))
    return run


@pytest.mark.parametrize("name", ["checkpoint.pt", "student/model.safetensors", "best/SHA256SUMS"])
def test_a_file_of_a_training_stage_that_changed_or_is_gone_is_named(trained, name):
    assert check_run(trained)["findings"] == []
    path = trained.folder / "stage1" / name
    flip_a_bit(path)
    finding = only_finding(trained)
    assert (finding["what"], finding["where"]) == ("corrupt", f"{path}, so stage1 starts from the beginning")
    assert " stage1 -R stage1 " in finding["command"]
    path.unlink()
    assert only_finding(trained)["what"] == "missing"


def test_an_unfinished_stage_is_checked_by_the_digests_of_its_own_files(trained):
    (trained.folder / "stage1.json").unlink()
    shutil.rmtree(trained.folder / "stage1/student")
    assert [finding["where"] for finding in check_run(trained)["findings"]] == [
        f"{trained.folder}/stage1/checkpoint.pt, so stage1 starts from the beginning"  # it is no checkpoint
    ]
    (trained.folder / "stage1/checkpoint.pt").unlink()
    assert check_run(trained)["findings"] == []
    flip_a_bit(trained.folder / "stage1/best/model.safetensors")
    assert only_finding(trained)["where"].startswith(f"{trained.folder}/stage1/best/model.safetensors")


def test_what_evaluate_wrote_is_compared_with_its_receipt(trained):
    flip_a_bit(trained.folder / "evaluate/areas.npz")
    finding = only_finding(trained)
    assert finding["where"] == f"{trained.folder}/evaluate/areas.npz"
    assert " evaluate -R evaluate " in finding["command"]


@pytest.mark.parametrize("name", ["sweep.json", "exported.json", "probe/students/0123.json"])
def test_a_damaged_record_that_nobody_needs_is_removed(run, name):
    write_record(run.folder / name, {"im1": ["0123"]})
    assert check_run(run)["findings"] == []
    flip_a_bit(run.folder / name)
    follow(only_finding(run)["command"], run)
    assert not (run.folder / name).exists()


def test_the_command_ends_with_one_if_anything_is_wrong(run):
    words = ["inspect", run.origin.run, "--set", f"results={run.results}", "--check"]
    assert run_command(*words).exit_code == 0
    flip_a_bit(run.folder / "calibrate.json")
    result = run_command(*words)
    assert result.exit_code == 1
    assert "found       receipt: " in result.stdout
    assert run_command(*words, "--json").exit_code == 1

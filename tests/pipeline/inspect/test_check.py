"""Every damage of a store is found, and so is a store that belongs to another run."""

import json
import shutil

import pytest
from stage_runs import digest_of, run_stages
from store_damage import (
    IMAGE_ARRAYS,
    KINDS,
    chunk_files,
    flip_a_bit,
    follow,
    invoke,
    make_unfinished,
    only_finding,
    receipt_of,
    run_command,
    store_of,
)
from tiny_run import write_sample_files

from pipeline.folder import FILE_OF, STAGE_OF
from pipeline.inspect import check_store, is_sound, repair
from pipeline.receipt import read_receipt
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_for_inspection


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_in_a_store_that_is_whole(run, kind):
    check = check_store(store_of(run, kind))
    assert check.findings == []
    expected = sum(len(chunk_files(store_of(run, kind), array.name)) for array in store_of(run, kind).glob("*/"))
    assert check.num_chunks == expected
    before = digest_of(run.folder)
    facts = repair(store_of(run, kind))
    assert (facts["repaired"], facts["to_be_remade"]) == (0, [])
    assert digest_of(run.folder) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_written_store_is_resumed(run, kind):
    path = store_of(run, kind)
    expected = digest_of(path)
    store = open_for_inspection(path)
    make_unfinished(path, store, image=2, arrays=IMAGE_ARRAYS[kind])
    receipt_of(run, kind).unlink()
    (path / f"{IMAGE_ARRAYS[kind][0]}/c/2.0123.partial").write_bytes(b"half")

    finding = only_finding(path)
    num = len(store.sample_ids)
    assert finding.where == f"{num - 1} of {num} images are done; 1 temporary files (*.part*)"
    assert (finding.what, finding.fix) == ("unfinished", "stage")
    follow(finding.command, run)
    assert digest_of(path) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_receipt_of_an_unfinished_store_has_to_go(run, kind):
    path = store_of(run, kind)
    make_unfinished(path, open_for_inspection(path), image=0, arrays=IMAGE_ARRAYS[kind])
    finding = only_finding(path)
    assert "5 of 6" in finding.where or "11 of 12" in finding.where
    assert finding.where.endswith(f"but the stage has finished according to {receipt_of(run, kind)}")
    follow(finding.command, run)
    assert check_store(path).findings == []


@pytest.fixture(scope="module")
def others(finished, tmp_path_factory):
    """The stores of a run on the same files with another annotator, and of one on files of other names."""
    run_file, _ = finished
    folder = tmp_path_factory.mktemp("others")
    changed = load_settings(run_file, {"results": str(folder / "annotator"), "python.arguments": {"stride": 4}})
    run_stages(changed)
    write_sample_files(folder / "data", [f"photo{i:02d}" for i in range(14)])
    renamed = load_settings(run_file, {"results": str(folder / "names"), "data.root": str(folder / "data")})
    run_stages(renamed)
    return {"annotator": changed.folder, "names": renamed.folder}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [pytest.param("annotator", marks=pytest.mark.slow), "names"])
def test_a_store_of_another_run_is_replaced(run, others, kind, other):
    path = store_of(run, kind)
    expected = digest_of(path)
    shutil.rmtree(path)
    shutil.copytree(others[other] / path.name, path)
    finding = only_finding(path)
    assert (finding.what, finding.fix) == ("other run", "stage" if other == "names" else "by hand")
    if other == "names":
        assert finding.where.startswith(f"its images are not those of {run.folder / 'samples.json'}, e.g. im")
    else:
        assert str(receipt_of(run, kind)) in finding.where
    follow(finding.command, run)
    assert check_store(path).findings == []
    assert digest_of(path) == expected


def test_a_damaged_store_of_other_images_is_repaired_and_left_to_its_stage(run, others):
    path = store_of(run, "probabilities")
    shutil.rmtree(path)
    shutil.copytree(others["names"] / path.name, path)
    flip_a_bit(chunk_files(path, "made_by")[0])
    assert is_sound(repair(path))


@pytest.mark.parametrize(("kind", "origin"), [("labels", "calibration"), ("labels", "probabilities")])
def test_a_store_that_was_made_from_others_than_lie_beside_it_is_made_again(run, others, kind, origin):
    path = store_of(run, kind)
    shutil.rmtree(store_of(run, origin))
    shutil.copytree(others["annotator"] / FILE_OF[origin], store_of(run, origin))
    for stage in ("annotate", "calibrate"):
        Run(run).finish(stage, read_receipt(others["annotator"] / f"{stage}.json", stage))
    finding = only_finding(path)
    assert finding.where.startswith(f"it was made from {origin} ")
    assert finding.command == f"snakemake --cores 8 pseudolabel -R pseudolabel --config run={run.origin.run}"
    if origin == "calibration":  # with its maps, the labels of the other run can be made
        shutil.rmtree(store_of(run, "probabilities"))
        shutil.copytree(others["annotator"] / "probs.zarr", store_of(run, "probabilities"))
        follow(finding.command, run)
        assert check_store(path).findings == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_store_without_a_receipt_lacks_it(run, kind):
    receipt_of(run, kind).unlink()
    finding = only_finding(store_of(run, kind))
    assert (finding.what, finding.where) == ("receipt", f"{receipt_of(run, kind)} is not there")
    follow(finding.command, run)
    assert check_store(store_of(run, kind)).findings == []


def test_a_store_by_itself_is_compared_with_nothing(run, tmp_path):
    shutil.copytree(store_of(run, "labels"), tmp_path / "sent" / "labels.zarr")
    result = invoke("inspect", tmp_path / "sent/labels.zarr", "--check")
    assert "compared with nothing: there is no samples.json and no receipt beside it" in result.output
    assert result.return_value == 0


@pytest.mark.parametrize("name", ["samples.json", "pseudolabel.json"])
def test_a_file_beside_the_store_that_cannot_be_read_is_named(run, name):
    flip_a_bit(run.folder / name)
    finding = only_finding(store_of(run, "labels"))
    assert finding.where.startswith(f"{run.folder / name} does not match the digest at its end")
    follow(finding.command, run)
    assert check_store(store_of(run, "labels")).findings == []


def test_metadata_that_the_facts_do_not_give_are_found(run):
    file = store_of(run, "labels") / "label/zarr.json"
    file.write_text(file.read_text().replace('"clevel": 5', '"clevel": 2'))
    assert only_finding(store_of(run, "labels")).where == (
        "label: its zarr.json does not follow from the facts of the store"
    )


@pytest.mark.parametrize("option", [(), ("--check",), ("--repair",), ("--json",)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_whose_own_metadata_are_damaged_is_one_line(run, kind, option):
    path = store_of(run, kind)
    receipt_of(run, kind).write_text("{}")  # with a sound receipt it can be repaired
    (path / "zarr.json").write_text("{")
    result = run_command("inspect", path, *option)
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: {path / 'zarr.json'} is damaged (JSONDecodeError: ")
    command = f"snakemake --cores 8 {STAGE_OF[kind]} --config run={run.origin.run}"
    again = f"rm {receipt_of(run, kind)} && {command}"
    assert line.endswith(f"run {again}")
    (path / "zarr.json").unlink()
    assert f"error: {path / 'zarr.json'} is lost; run {again}" in run_command("inspect", path, *option).stderr


def test_the_command_says_it_in_lines_and_by_its_exit_code(run):
    path = store_of(run, "labels")
    assert run_command("inspect", path, "--check").exit_code == 0
    assert "found       nothing" in run_command("inspect", path, "--check").stdout
    flip_a_bit(path / "label/c/1/0/0")
    checked = run_command("inspect", path, "--check")
    assert checked.exit_code == 1
    assert "found       corrupt: label of 1 (" in checked.stdout
    assert "compared with samples.json, pseudolabel.json, calibration.zarr, probs.zarr" in checked.stdout
    facts = json.loads(run_command("inspect", path, "--check", "--json").stdout)
    assert [finding["what"] for finding in facts["findings"]] == ["corrupt"]
    assert not is_sound(facts)
    repaired = run_command("inspect", path, "--repair")
    assert repaired.exit_code == 0
    assert "the stage will make 1 (" in repaired.stdout
    assert f"next        run snakemake --cores 8 pseudolabel --config run={run.origin.run}" in repaired.stdout

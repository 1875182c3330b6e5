"""The command that a finding names fixes a store to the byte, and makes nothing again that was whole."""

import shutil

import numpy as np
import pytest
from stage_runs import digest_of, labels_of, run_stages
from store_damage import (
    IMAGE_ARRAYS,
    KINDS,
    RUN,
    belongs_to,
    chunk_files,
    flip_a_bit,
    follow,
    make_unfinished,
    only_finding,
    receipt_of,
    store_of,
    times_of,
)

from pipeline.datasets import image_to_grid, load_samples
from pipeline.errors import StoreError
from pipeline.folder import STAGE_OF
from pipeline.inspect import check_store, repair
from pipeline.run_file import load_settings
from pipeline.store import ABSENT, DONE, FAILED, open_for_inspection, open_labels

PLACES = [  # an array of every kind: of one image, of all images, of none
    *(("corrupt", kind, IMAGE_ARRAYS[kind][0]) for kind in KINDS),
    ("corrupt", "probabilities", "class"),
    *(("corrupt", "calibration", array) for array in ("status", "q_hat")),
    *(("corrupt", "labels", array) for array in ("sample", "outcome_pixels", "set")),
    ("missing", "probabilities", "status"),
    ("missing", "calibration", "q_hat"),
    ("missing", "labels", "label_by_alpha"),
    ("missing", "labels", "abstained_pixels"),
]
MORE_PLACES = [  # other arrays of the same kinds
    *(("corrupt", "calibration", array) for array in ("alpha", "fold", "n_valid")),
    *(("corrupt", "labels", array) for array in ("p_background", "class_pixels")),
    *(("missing", kind, "status") for kind in KINDS if kind != "probabilities"),
    ("missing", "labels", "class_pixels"),
]


@pytest.mark.parametrize(
    ("damage", "kind", "array"), [*PLACES, *(pytest.param(*place, marks=pytest.mark.slow) for place in MORE_PLACES)]
)
def test_damage_is_found_and_the_command_makes_just_that_again(run, kind, array, damage):
    path = store_of(run, kind)
    expected, times = digest_of(path), times_of(path, kind)
    files = chunk_files(path, array)
    damaged = files[len(files) // 2]
    flip_a_bit(damaged) if damage == "corrupt" else damaged.unlink()

    finding = only_finding(path)
    assert (finding.what, finding.where.split()[0].rstrip(":")) == (damage, array)
    assert finding.command.startswith(f"conformalsam inspect {path} --repair && snakemake --cores 8 {STAGE_OF[kind]}")
    follow(finding.command, run)
    assert check_store(path).findings == []
    assert digest_of(path) == expected

    rewritten = {file for file, time in times_of(path, kind).items() if times[file] != time}
    if array in IMAGE_ARRAYS[kind]:
        image = next(i for i in range(14) if belongs_to(damaged, array, i))
        assert damaged in rewritten
        assert all(belongs_to(file, file.parts[file.parts.index("c") - 1], image) for file in rewritten)
    elif array not in ("outcome_pixels", "class_pixels", "abstained_pixels"):  # which are those of many images
        assert rewritten == set()


def test_images_are_named_with_the_array(run):
    path = store_of(run, "labels")
    for i in (0, 2):
        flip_a_bit(path / f"label/c/{i}/0/0")
    ids = open_labels(path).sample_ids
    assert only_finding(path).where.startswith(f"label of 2 ({ids[0]}, {ids[2]}): RuntimeError: Stored and computed")
    assert repair(path)["to_be_remade"] == [ids[0], ids[2]]
    assert not receipt_of(run, "labels").exists()
    assert open_for_inspection(path).status.tolist() == [ABSENT, DONE, ABSENT, DONE, DONE, DONE]


def test_a_failed_image_is_named_with_its_reason_and_tried_again(finished, run):
    run_file, _ = finished
    store = open_for_inspection(store_of(run, "probabilities"))
    expected, bad = digest_of(store.path), store.sample_ids[3]
    failing = {"results": run.results, "max_failed_fraction": 0.1, "python.arguments": {"bad_red": red_of(run, bad)}}
    shutil.rmtree(store.path)
    run_stages(load_settings(run_file, failing))
    assert open_for_inspection(store.path).status.tolist().count(FAILED) == 1

    (finding,) = [f for f in check_store(store.path).findings if f.what == "failed"]
    assert finding.where == f"1 ({bad}): RuntimeError: cannot digest this image; fix the files"
    for kind in ("calibration", "labels"):
        held = [f.where for f in check_store(store_of(run, kind)).findings]
        assert held in ([], [f"1 ({bad}), because their maps are missing"])
    follow(finding.command, run)
    assert check_store(store.path).findings == []
    assert digest_of(store.path) == expected


def red_of(settings, sample_id):
    """Red value of the first pixel of an image as the annotator sees it."""
    index = load_samples(settings.folder / "samples.json")
    sample = next(sample for sample in index.samples if sample.id == sample_id)
    return int(image_to_grid(index.image(sample), settings.data.grid)[0, 0, 0])


def test_an_image_that_failed_because_it_has_no_maps_needs_the_maps_first(finished, run):
    run_file, _ = finished
    bad = open_for_inspection(store_of(run, "labels")).sample_ids[1]
    expected = labels_of(run)
    failing = {"results": run.results, "max_failed_fraction": 0.1, "python.arguments": {"bad_red": red_of(run, bad)}}
    shutil.rmtree(store_of(run, "probabilities"))
    shutil.rmtree(store_of(run, "labels"))
    run_stages(load_settings(run_file, failing))
    finding = only_finding(store_of(run, "labels"))
    assert finding.where == f"1 ({bad}), because their maps are missing"
    follow(finding.command, run)
    assert check_store(store_of(run, "labels")).findings == []
    assert np.array_equal(labels_of(run), expected, equal_nan=True)


def test_labels_without_sets_that_are_damaged_need_no_maps_as_long_as_their_planes_are_whole(finished, run):
    run_file, _ = finished
    plain = load_settings(run_file, {"results": run.results, "keep_sets": False})
    run_stages(plain, "pseudolabel")
    path = store_of(plain, "labels")
    expected = digest_of(path)
    flip_a_bit(path / "label/c/1/0/0")
    shutil.rmtree(store_of(plain, "probabilities"))
    follow(only_finding(path).command, plain)
    assert digest_of(path) == expected


def test_planes_that_are_lost_come_from_the_maps_of_a_store_that_was_labeled_again(finished, run):
    """Labels at another alpha are made of the planes alone; a lost plane is not mistaken for a failed image."""
    run_file, _ = finished
    changed = load_settings(run_file, {"results": run.results, "alpha": 0.5, "keep_sets": False})
    run_stages(changed, "calibrate", "pseudolabel")
    path = store_of(changed, "labels")
    expected = digest_of(path)
    (path / "p_second/c/4/0/0").unlink()
    follow(only_finding(path).command, changed)
    assert digest_of(path) == expected

    flip_a_bit(path / "best_foreground/c/4/0/0")
    shutil.rmtree(store_of(changed, "probabilities"))
    with pytest.raises(
        StoreError, match=r"no probabilities store at .*; run rm \S+/annotate.json && snakemake --cores 8 annotate"
    ):
        follow(only_finding(path).command, changed)


def test_damage_beside_damage_is_repaired_at_once(run):
    path = store_of(run, "calibration")
    expected = digest_of(path)
    flip_a_bit(path / "status/c/0")
    flip_a_bit(path / "score/c/3/0/0")
    flip_a_bit(path / "sample/c/0")
    (path / "q_hat/c/1/0/0").unlink()
    (path / "fold/zarr.json").write_text("{")
    assert {f.what for f in check_store(path).findings} == {"corrupt", "missing", "metadata"}
    assert repair(path)["to_be_remade"] == ["number 3"]  # its name is lost, too, until the stage runs
    follow(f"snakemake --cores 8 calibrate --config run={RUN}", run)
    assert digest_of(path) == expected


@pytest.mark.parametrize(
    ("kind", "array", "content"),
    [
        ("probabilities", "logits", None),
        ("probabilities", "logits", "{"),
        ("calibration", "q_hat", ""),
        ("calibration", "q_hat", '{"zarr_format": 3}'),
        ("labels", "sample", "[]"),
    ],
)
def test_metadata_that_cannot_be_read_are_written_from_the_facts(run, kind, array, content):
    path = store_of(run, kind)
    expected = digest_of(path)
    file = path / array / "zarr.json"
    file.unlink() if content is None else file.write_text(content)
    finding = only_finding(path)
    assert (finding.what, finding.where.split(":")[0]) == ("metadata", array)
    follow(finding.command, run)
    assert digest_of(path) == expected


def test_a_repair_writes_metadata_from_the_facts_and_not_from_a_damaged_copy(run):
    """Both the metadata of an array and the copy that other programs read have lost the names of the dimensions."""
    path = store_of(run, "labels")
    expected = digest_of(path)
    for file in (path / "label/zarr.json", path / "zarr.json"):
        file.write_text(file.read_text().replace('"sample"', '"x"'))
    assert {f.where.split(":")[0] for f in check_store(path).findings} == {"label", "zarr.json"}
    with pytest.raises(StoreError, match=f"zarr.json is damaged .*; run conformalsam inspect {path} --repair"):
        open_labels(path)
    follow(check_store(path).findings[0].command, run)
    assert check_store(path).findings == []
    assert digest_of(path) == expected


def test_metadata_of_an_unfinished_store_are_written_by_its_stage(run):
    path = store_of(run, "probabilities")
    expected = digest_of(path)
    make_unfinished(path, open_for_inspection(path), image=0, arrays=["logits"])
    receipt_of(run, "probabilities").unlink()
    (path / "logits/zarr.json").write_text("{")
    follow(f"snakemake --cores 8 annotate --config run={RUN}", run)
    assert digest_of(path) == expected


def test_what_is_left_over_is_removed_and_nothing_else_changes(run):
    path = store_of(run, "labels")
    before = digest_of(run.folder)
    (path / "label/c/1/0/0.deadbeef.partial").write_bytes(b"half")
    finding = only_finding(path)
    assert (finding.what, finding.where) == ("left over", "1 temporary files (*.part*)")
    follow(finding.command, run)
    assert digest_of(run.folder) == before


def test_status_that_is_lost_follows_from_the_chunks(run):
    """Also of an unfinished store, whose absent images stay absent."""
    path = store_of(run, "labels")
    make_unfinished(path, open_for_inspection(path), image=3, arrays=IMAGE_ARRAYS["labels"])
    (path / "status/c/0").unlink()
    receipt_of(run, "labels").unlink()
    assert {f.what for f in check_store(path).findings} == {"missing", "unfinished"}
    repair(path)
    assert np.flatnonzero(open_for_inspection(path).status == ABSENT).tolist() == [3]

"""Labels in an object store: machines without a common disk label each image once, whatever fails."""

import logging
import re
import shutil

import numpy as np
import pytest
import yaml
import zarr
from click.testing import CliRunner
from faulty_server import Faults
from stage_runs import contents, kill_stage, labels_of, run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.errors import BucketError, ConfigError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import shared_labels as module

IDS = [f"im{i:02d}" for i in range(12)]
NUM_UNLABELED = 6


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Folder of a run file and its calibrated run."""
    folder = tmp_path_factory.mktemp("calibrated")
    write_sample_files(folder / "data", IDS)
    settings = load_settings(write_run_file(folder), {"data.splits.num_labeled": 4})
    run_stages(settings, "prepare", "annotate", "calibrate")
    return folder


@pytest.fixture
def make(calibrated, tmp_path):
    """Function that makes the settings of the calibrated run on a machine whose disk is tmp_path/MACHINE."""

    def make(machine, labels=f"file://{tmp_path}/bucket/labels", **overrides):
        if not (tmp_path / machine).exists():
            shutil.copytree(calibrated / "results", tmp_path / machine)
        places = {"results": str(tmp_path / machine), "labels": labels}
        return load_settings(calibrated / "tiny.yaml", {**places, "data.splits.num_labeled": 4, **overrides})

    return make


@pytest.fixture
def labeled(caplog):
    """Function that runs pseudolabel and returns the number of images that it labeled itself."""

    def label(settings):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run_stages(settings, "pseudolabel")
        (start,) = (message for message in caplog.messages if re.match(r"pseudolabel: \d+ images(,|$)", message))
        done = re.search(r"(\d+) of them done before", start)
        return NUM_UNLABELED - (int(done[1]) if done else 0)

    return label


def files_of(settings):
    return contents(settings.folder / "labels.zarr")


def objects(tmp_path, settings):
    """The only labels in the object store, by name."""
    (folder,) = (tmp_path / "bucket/labels").glob(f"{Run(settings).recorded('pseudolabel')['fingerprint']}-*.zarr")
    return folder


def cache_command(settings, name, *options):
    return CliRunner().invoke(main, ["cache", *Run(settings).arguments(name, *options)])


def test_the_objects_are_the_files_of_the_store_and_other_machines_label_nothing(make, labeled, tmp_path):
    first = make("first")
    assert labeled(first) == NUM_UNLABELED
    assert contents(objects(tmp_path, first)) == files_of(first)
    labels = zarr.open_group(objects(tmp_path, first), mode="r")["label"][:]
    assert np.array_equal(labels, labels_of(first), equal_nan=True)
    second = make("second")
    assert labeled(second) == 0
    assert files_of(second) == files_of(first)
    assert contents(objects(tmp_path, first)) == files_of(first)
    receipts = [Run(one).recorded("pseudolabel") for one in (first, second)]
    assert receipts[0]["pixels"] == receipts[1]["pixels"]
    assert receipts[0]["shift"] == receipts[1]["shift"]


def test_another_machine_continues_where_one_was_killed(make, labeled, tmp_path):
    first = make("first")
    run_file = tmp_path / "killed/tiny.yaml"
    run_file.parent.mkdir()
    places = {"results": first.results, "labels": first.labels, "data": {"splits": {"num_labeled": 4, "num_val": 2}}}
    run_file.write_text(yaml.safe_dump({"extends": first.origin.run, **places}))
    kill_stage(run_file, "pseudolabel", "/status/c/", 3)
    assert len(list(tmp_path.glob("bucket/labels/*/label/c/*/0/0"))) == 1
    second = make("second")
    listed = cache_command(second, "list").output.splitlines()[-1]
    assert listed.endswith(".zarr: 1 images, unfinished")
    assert labeled(second) == NUM_UNLABELED - 1
    alone = make("alone", labels=None)
    labeled(alone)
    assert files_of(second) == files_of(alone) == contents(objects(tmp_path, second))


def test_damage_is_found_and_repaired_by_any_machine(make, labeled, tmp_path):
    first = make("first")
    labeled(first)
    sound, folder = files_of(first), objects(tmp_path, first)
    for name in ("label/c/3/0/0", "outcome_pixels/c/0/0"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:9] + bytes([content[9] ^ 4]) + content[10:])
    (folder / "label/c/2/0/0").unlink()

    checked = cache_command(first, "verify")
    assert checked.exit_code == 1
    assert sorted(line.rpartition(".zarr/")[2] for line in checked.output.splitlines() if "damaged: " in line) == [
        "label/c/2/0/0",
        "label/c/3/0/0",
        "outcome_pixels/c/0/0",
    ]
    assert "3 damaged; remove them: conformalsam cache verify " in checked.output
    repaired = cache_command(first, "verify", "--repair")
    assert (repaired.exit_code, "pseudolabel" in repaired.output.splitlines()[-1]) == (0, True)
    assert not (folder / "zarr.json").exists()

    second = make("second")
    labeled(second)
    assert files_of(second) == sound == contents(folder)
    checked = cache_command(first, "verify")
    assert (checked.exit_code, checked.output) == (0, "all maps and labels have their checksums\n")


def test_a_damaged_image_alone_is_labeled_again(make, labeled, tmp_path):
    first = make("first")
    labeled(first)
    folder = objects(tmp_path, first)
    (folder / "label/c/2/0/0").write_bytes(b"")
    second = make("second")
    assert labeled(second) == 1
    assert files_of(second) == files_of(first) == contents(folder)


def test_labels_of_before_are_sent_and_those_of_other_settings_are_others(make, labeled, tmp_path):
    first = make("first", labels=None)
    labeled(first)
    sound = files_of(first)
    Run(first).folder.receipt("pseudolabel").unlink()
    with_url = make("first")
    labeled(with_url)
    assert files_of(with_url) == sound == contents(objects(tmp_path, with_url))
    other = make("second", rule="argmax")
    assert labeled(other) == NUM_UNLABELED
    assert contents(objects(tmp_path, with_url)) == sound
    assert len(list(tmp_path.glob("bucket/labels/*.zarr/zarr.json"))) == 2


def test_a_name_that_is_no_url_is_refused(make):
    with pytest.raises(ConfigError, match=r"labels.*'none' is not the URL of an object store.*stage1\.labels"):
        make("first", labels="none")


def test_a_bucket_that_does_not_exist_is_named_and_nothing_is_lost(make, labeled, s3):
    first = make("first", labels="s3://nothing/labels")
    with pytest.raises(BucketError, match=r"s3://nothing/labels/\w+-\d+\.zarr cannot be .*bucket"):
        run_stages(first, "pseudolabel")
    assert labeled(make("first", labels=None)) == NUM_UNLABELED


@pytest.mark.slow
def test_a_server_that_drops_delays_refuses_and_corrupts_answers_loses_nothing(make, s3, labeled, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_TO_SEND", 0)
    first = make("first", labels=s3)
    assert labeled(first) == NUM_UNLABELED
    for machine in ("second", "third"):
        labeled(make(machine, labels=s3))
        assert files_of(make(machine, labels=s3)) == files_of(first)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*Faults.server_address_of))
    assert cache_command(first, "verify").exit_code == 0
    assert min(Faults.done[fault] for fault in ("drop", "delay", "refuse", "corrupt")) >= 3

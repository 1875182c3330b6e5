"""Labels in an object store: machines without a common disk label each image once, whatever fails."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import xarray
import yaml
from click.testing import CliRunner
from faulty_server import Faults
from object_server import Objects
from stage_runs import SUPPORT, contents, run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.errors import BucketError, ConfigError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import shards
from pipeline.store import shared_labels as module

IDS = [f"im{i:02d}" for i in range(12)]
NUM_UNLABELED = 6
TWO_IMAGES = 2 * 4 * 16 * 24  # bytes of a plane of two images of the tiny run
SHARDS = 3 * 5  # of labels and four planes of two images each
ENTRIES = 6  # chunks of the arrays that have an entry for each image
SENDER = """
import sys
from pipeline.run_file import load_settings
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import shards, shared_labels
shards.SHARD_BYTES, shared_labels.SECONDS_TO_SEND, shared_labels.LARGEST_FRACTION = int(sys.argv[1]), 0, 1e9
pseudolabel(load_settings(sys.argv[2], {"compute.workers": 1}))
"""
SENT_WITH_A_SHARD = 6  # objects: a shard of each array, and the entries


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Folder of a run file and its calibrated run."""
    folder = tmp_path_factory.mktemp("calibrated")
    write_sample_files(folder / "data", IDS)
    settings = load_settings(write_run_file(folder), {"data.splits.num_labeled": 4})
    run_stages(settings, "prepare", "annotate", "calibrate")
    return folder


@pytest.fixture(autouse=True)
def shards_of_two_images(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", TWO_IMAGES)


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


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


def cache_command(settings, name, *options):
    return CliRunner().invoke(main, ["cache", *Run(settings).arguments(name, *options)])


def test_the_objects_are_shards_of_the_arrays_and_other_machines_label_nothing(make, labeled, tmp_path):
    first = make("first", **{"pseudolabel.keep_sets": True})
    assert labeled(first) == NUM_UNLABELED
    folder = objects(tmp_path, first)
    ours, theirs = (xarray.open_zarr(path) for path in (first.folder / "labels.zarr", folder))
    xarray.testing.assert_identical(theirs, ours)
    assert len(list(folder.glob("set/c/*/0/0/0"))) == 3
    sent = contents(folder)
    second = make("second", **{"pseudolabel.keep_sets": True})
    assert labeled(second) == 0
    assert files_of(second) == files_of(first)
    assert contents(folder) == sent
    receipts = [Run(one).recorded("pseudolabel") for one in (first, second)]
    assert receipts[0]["pixels"] == receipts[1]["pixels"]
    assert receipts[0]["shift"] == receipts[1]["shift"]


def test_images_share_objects_and_requests(make, labeled, own_s3):
    assert labeled(make("first", own_s3)) == NUM_UNLABELED
    names = [name.partition(".zarr/")[2] for name in Objects.objects]
    assert sum(map(shards.is_shard, names)) == SHARDS
    assert len(names) == Objects.requests["PUT"] - 1 == len(set(names)), "progress was replaced"
    Objects.requests.clear()
    assert labeled(make("second", own_s3)) == 0
    assert Objects.requests["GET"] == SHARDS + ENTRIES
    listed = cache_command(make("second", own_s3), "list").output.splitlines()[-1]
    assert listed.endswith(f".zarr: 6 images in {len(names)} objects, finished")


def kill_at(settings, run_file, moment):
    """Run pseudolabel in a process that is killed when the server gets the n-th object, which is not stored."""
    own = {"results": settings.results, "labels": settings.labels, "data": {"splits": {"num_labeled": 4, "num_val": 2}}}
    run_file.parent.mkdir()
    run_file.write_text(yaml.safe_dump({"extends": settings.origin.run, **own}))
    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT.parents[1]}{os.pathsep}{SUPPORT}"}
    process = subprocess.Popen([sys.executable, "-c", SENDER, str(TWO_IMAGES), str(run_file)], env=environment)
    moments = iter(range(1, moment))

    def kill():
        if next(moments, None) is None:
            process.kill()
            raise ConnectionAbortedError

    Objects.before_write[:] = [kill]
    assert process.wait(timeout=60) == -signal.SIGKILL
    Objects.before_write.clear()


def stored(url):
    """Name -> content of the objects below a URL of the own server."""
    prefix = f"{url.removeprefix('s3://bucket/')}/"
    return {name.removeprefix(prefix): content for name, content in Objects.objects.items() if name.startswith(prefix)}


def test_another_machine_continues_where_one_was_killed(make, labeled, own_s3, tmp_path):
    kill_at(make("first", own_s3), tmp_path / "killed/tiny.yaml", SENT_WITH_A_SHARD + 3)
    second = make("second", own_s3)
    listed = cache_command(second, "list").output.splitlines()[-1]
    assert re.search(r"\.zarr: up to [24] images in 8 objects, unfinished$", listed)
    assert cache_command(second, "verify").output == "all maps and labels have their checksums\n"
    assert labeled(second) == NUM_UNLABELED - 2
    alone = make("alone", "s3://bucket/alone")
    labeled(alone)
    assert files_of(second) == files_of(alone)
    assert stored(own_s3) == stored("s3://bucket/alone")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [5, 12, 20])
def test_another_machine_continues_whatever_was_sent(make, labeled, own_s3, tmp_path, moment):
    kill_at(make("first", own_s3), tmp_path / "killed/tiny.yaml", moment)
    assert labeled(make("second", own_s3)) == NUM_UNLABELED - 2 * min(3, (moment - 1) // SENT_WITH_A_SHARD)
    alone = make("alone", "s3://bucket/alone")
    labeled(alone)
    assert files_of(make("second", own_s3)) == files_of(alone)
    assert stored(own_s3) == stored("s3://bucket/alone")


def test_damage_is_found_and_repaired_by_any_machine(make, labeled, tmp_path):
    first = make("first")
    labeled(first)
    sound, folder = files_of(first), objects(tmp_path, first)
    sent = contents(folder)
    flip(folder / "label/c/1/0/0", at=-60)  # in the second image
    flip(folder / "p_second/c/2/0/0", at=-3)  # in the index
    (folder / "best_foreground/c/2/0/0").unlink()

    checked = cache_command(first, "verify")
    assert checked.exit_code == 1
    assert sorted(line.rpartition(".zarr/")[2] for line in checked.output.splitlines() if "damaged: " in line) == [
        "best_foreground/c/2/0/0",
        "label/c/1/0/0",
        "p_second/c/2/0/0",
    ]
    assert "3 damaged; remove them: conformalsam cache verify " in checked.output
    repaired = cache_command(first, "verify", "--repair")
    assert (repaired.exit_code, "pseudolabel" in repaired.output.splitlines()[-1]) == (0, True)
    assert not (folder / "zarr.json").exists()
    assert cache_command(first, "verify").exit_code == 0

    second = make("second")
    assert labeled(second) == 3
    assert files_of(second) == sound
    assert contents(folder) == sent
    checked = cache_command(first, "verify")
    assert (checked.exit_code, checked.output) == (0, "all maps and labels have their checksums\n")


def test_damaged_images_are_labeled_again_without_a_repair(make, labeled, tmp_path, caplog):
    first = make("first")
    labeled(first)
    folder = objects(tmp_path, first)
    sent = contents(folder)
    (folder / "label/c/2/0/0").write_bytes(b"")
    flip(folder / "p_foreground/c/0/0/0", at=9)
    second = make("second")
    assert labeled(second) == 3
    assert "pseudolabel: 3 images in file://" in caplog.text
    assert "are damaged or lost, and are labeled again" in caplog.text
    assert files_of(second) == files_of(first)
    assert contents(folder) == sent
    flip(folder / "outcome_pixels/c/0/0", at=9)
    third = make("third")
    assert labeled(third) == NUM_UNLABELED
    assert re.search(r"\.zarr/outcome_pixels/c/0/0 is damaged, and the images in it are labeled again", caplog.text)
    assert contents(folder) == sent


def test_labels_of_before_are_sent_and_those_of_other_settings_are_others(make, labeled, tmp_path):
    first = make("first", labels=None)
    labeled(first)
    sound = files_of(first)
    Run(first).folder.receipt("pseudolabel").unlink()
    with_url = make("first")
    labeled(with_url)
    assert files_of(with_url) == sound
    sent = contents(objects(tmp_path, with_url))
    other = make("second", rule="argmax")
    assert labeled(other) == NUM_UNLABELED
    assert contents(objects(tmp_path, with_url)) == sent
    assert len(list(tmp_path.glob("bucket/labels/*.zarr/zarr.json"))) == 2


def test_a_name_that_is_no_url_is_refused(make):
    with pytest.raises(ConfigError, match=r"labels.*'none' is not the URL of an object store.*stage1\.labels"):
        make("first", labels="none")


def test_a_bucket_that_does_not_exist_is_named_and_nothing_is_lost(make, labeled, s3):
    first = make("first", labels="s3://nothing/labels")
    with pytest.raises(BucketError, match=r"s3://nothing/labels/\w+-\d+-\d+\.zarr cannot be .*bucket"):
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

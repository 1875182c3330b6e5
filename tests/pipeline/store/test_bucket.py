"""Maps in an object store behind the cache: machines without a common disk annotate each image once, whatever fails."""

import logging
import shutil
from collections import Counter

import pytest
from click.testing import CliRunner
from faulty_server import Faults
from stage_runs import contents, run_stages
from tiny_run import write_run_file

from pipeline.__main__ import main
from pipeline.errors import BucketError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import object_store
from pipeline.store.bucket import Bucket

IDS = [f"im{i:02d}" for i in range(10)]


@pytest.fixture
def make(tmp_path, write_images):
    """Settings of a run on a machine whose disk is tmp_path/MACHINE; each call of the annotator is a line of calls."""
    write_images(tmp_path / "data", IDS)

    def make(machine, cache=f"file://{tmp_path}/bucket/maps", **overrides):
        python = {"factory": "noisy_annotator:build", "arguments": {"log": str(tmp_path / "calls")}}
        section = {"annotator": "python", "python": python, "class_check": "warn", "batch_size": 2}
        run_file = write_run_file(tmp_path, annotate=section)
        return load_settings(run_file, {"results": str(tmp_path / machine), "cache": cache, **overrides})

    return make


def num_calls(tmp_path):
    """Number of images that were annotated, none of them twice."""
    calls = Counter((tmp_path / "calls").read_text().split())
    assert set(calls.values()) == {1}
    return len(calls)


def maps_of(settings):
    return contents(settings.folder / "probs.zarr/logits")


def test_another_machine_makes_only_what_the_first_did_not(make, tmp_path, write_images):
    first = make("first")
    run_stages(first, "prepare", "annotate")
    assert num_calls(tmp_path) == 8
    write_images(tmp_path / "data", [*IDS, "more"])
    second = make("second")
    run_stages(second, "prepare", "annotate")
    assert num_calls(tmp_path) == 9
    assert Run(second).recorded("annotate")["cache"]["num_made"] == 1
    run_stages(make("alone", str(tmp_path / "folder")), "prepare")
    (tmp_path / "calls").unlink()
    alone = make("alone", str(tmp_path / "folder"))
    run_stages(alone, "annotate")
    assert maps_of(second) == maps_of(alone)
    assert contents(second.cache_folder) == contents(tmp_path / "bucket/maps")


def test_maps_of_before_are_added_and_a_damaged_one_is_made_again(make, tmp_path, caplog):
    run_stages(make("first", None), "prepare", "annotate")
    run_stages(make("first"), "prepare")
    Run(make("first")).folder.receipt("annotate").unlink()
    shutil.rmtree(make("first").folder / "probs.zarr")
    run_stages(make("first"), "annotate")
    rows = sorted((tmp_path / "bucket/maps").glob("*/rows/??/*"))
    assert (len(rows), num_calls(tmp_path)) == (8, 8)
    content = rows[3].read_bytes()
    rows[3].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    listed = CliRunner().invoke(main, ["cache", "list", str(make("first").origin.run), *words(make("first"))])
    assert listed.output.splitlines()[-1].startswith(f"file://{tmp_path}/bucket/maps/noisy-")
    assert ": 8 images in 0 packs and 8 single maps, " in listed.output.splitlines()[-1]
    checked = CliRunner().invoke(main, ["cache", "verify", str(make("first").origin.run), *words(make("first"))])
    assert (checked.exit_code, checked.output.count("damaged: ")) == (1, 1)

    (tmp_path / "calls").unlink()
    with caplog.at_level(logging.WARNING):
        run_stages(make("second"), "prepare", "annotate")
    assert "is damaged" in caplog.text
    assert num_calls(tmp_path) == 1
    assert rows[3].read_bytes() == content
    assert maps_of(make("second")) == maps_of(make("first"))


def test_packed_maps_are_read_alone_by_every_process(make, tmp_path, caplog):
    first = make("first")
    run_stages(first, "prepare", "annotate")
    name = next(first.cache_folder.iterdir()).name
    before = Bucket(first.cache, name)
    digests = sorted(before.places)
    expected = {digest: before.read(digest) for digest in digests}
    run = str(first.origin.run)
    packed_lines = CliRunner().invoke(main, ["cache", "pack", run, *words(first)]).output.splitlines()
    assert [line.rpartition(": ")[2] for line in packed_lines] == ["8 images"]
    assert not list(tmp_path.glob("bucket/maps/*/rows/??/*"))
    assert {digest: before.read(digest) for digest in digests} == expected, "listed before they were packed"
    listed = CliRunner().invoke(main, ["cache", "list", run, *words(first)]).output
    assert ": 8 images in 1 packs and 0 single maps" in listed
    assert num_calls(tmp_path) == 8
    run_stages(make("second"), "prepare", "annotate")
    assert num_calls(tmp_path) == 8
    assert maps_of(make("second")) == maps_of(first)

    file = next(tmp_path.glob("bucket/maps/*/packs/*"))
    content = bytearray(file.read_bytes())
    content[before.places[digests[3]].offset + 20] ^= 1
    file.write_bytes(content)
    (tmp_path / "calls").unlink()
    run_stages(make("third"), "prepare", "annotate")
    assert f"map {digests[3]} is damaged" in caplog.text
    assert num_calls(tmp_path) == 1
    assert maps_of(make("third")) == maps_of(first)
    after = Bucket(first.cache, name)
    assert {digest: after.read(digest) for digest in digests} == expected
    file.write_bytes(content[:-3])
    assert list(Bucket(first.cache, name).places) == [digests[3]], "the one that was made again"

    folder = load_settings(run, {"cache": None})
    refused = CliRunner().invoke(main, ["cache", "pack", run, "--set", f"results={folder.results}"])
    assert (refused.exit_code, "only those in an object store are packed" in refused.output) == (1, True)


def test_packs_are_filled_up_to_a_size(make, tmp_path):
    first = make("first")
    run_stages(first, "prepare", "annotate")
    one = Bucket(first.cache, next(first.cache_folder.iterdir()).name)
    sizes = sorted(size for _, size in one.objects.listed("rows"))
    packs = list(one.pack(most_bytes=3 * sizes[-1]))
    assert sum(number for _, number in packs) == 8
    assert len(packs) in (2, 3)
    assert len({place.pack for place in one.places.values()}) == len(packs)


def words(settings):
    return ["--set", f"results={settings.results}", "--set", f"cache={settings.cache}"]


def test_a_store_that_cannot_be_reached_is_named_with_what_to_check(make, tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "PATIENCE", {"max_retries": 0})
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ALLOW_HTTP": "true", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    settings = make("first", "s3://bucket/maps")
    run_stages(settings, "prepare")
    with pytest.raises(BucketError, match=r"s3://bucket/maps/noisy-\w+ cannot be .*AWS_ENDPOINT_URL") as error:
        run_stages(settings, "annotate")
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_server_that_drops_delays_refuses_and_corrupts_answers_loses_nothing(make, s3, tmp_path):
    first = make("first", s3)
    run_stages(first, "prepare", "annotate")
    assert num_calls(tmp_path) == 8
    cache = next(first.cache_folder.iterdir())
    for machine in ("second", "third"):
        run_stages(make(machine, s3), "prepare", "annotate")
        assert maps_of(make(machine, s3)) == maps_of(first)
        if machine == "second":
            assert sum(number for _, number in Bucket(s3, cache.name).pack(most_bytes=2000)) == 8
    assert num_calls(tmp_path) == 8
    assert min(Faults.done[fault] for fault in ("drop", "delay", "refuse", "corrupt")) >= 3
    assert Bucket(s3, cache.name).places.keys() == {path.name for path in cache.glob("rows/??/*")}


def test_a_bucket_that_does_not_exist_is_named(make, s3, tmp_path):
    settings = make("first", "s3://nothing/maps")
    run_stages(settings, "prepare")
    with pytest.raises(BucketError, match=r"s3://nothing/maps/noisy-\w+ cannot be .*bucket"):
        run_stages(settings, "annotate")

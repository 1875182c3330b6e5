"""Parts of a run's images, annotated by jobs or processes of their own: each image once, the bytes of one process."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stage_runs import contents, run_stages
from tiny_run import write_run_file

from pipeline.__main__ import main
from pipeline.annotators.workers import num_processes
from pipeline.errors import AnnotatorError, ConfigError, StageError
from pipeline.gpus import visible_gpus
from pipeline.marks import mark_of, update_marks
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.shards import shards, update_shard_marks
from pipeline.stages.annotate import annotate, annotate_shard

ROOT = Path(__file__).parents[2]
IDS = [f"im{i:02d}" for i in range(14)]


@pytest.fixture
def make(tmp_path, write_images, monkeypatch):
    """Settings of a prepared run whose annotator writes a line for each image into tmp_path/calls."""
    write_images(tmp_path / "data", IDS)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}")

    def make(name="tiny", arguments=None, **overrides):
        python = {
            "factory": "noisy_annotator:build",
            "arguments": {"log": str(tmp_path / "calls"), **(arguments or {})},
        }
        section = {"annotator": "python", "python": python, "class_check": "warn", "batch_size": 2}
        settings = load_settings(write_run_file(tmp_path, annotate=section, name=name), overrides)
        run_stages(settings, "prepare")
        return settings

    return make


@given(st.lists(st.integers()), st.integers(1, 9))
def test_parts_are_disjoint_and_together_everything(images, number):
    parts = [shard.part(images) for shard in shards(number)]
    assert Counter(image for part in parts for image in part) == Counter(images)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["5_of_4", "0_of_4", "2/4", "", "1_of_2_of_3", "-1_of_2"])
def test_a_part_that_is_none_is_refused(make, text):
    run = str(make().origin.run)
    refused = CliRunner().invoke(main, ["annotate", run, "--shard", text])
    assert (refused.exit_code, "is no part of the images; write --shard 2_of_4" in refused.output) == (1, True)


@pytest.fixture
def alone(make, tmp_path):
    """A run that one process annotates, with a cache of its own; its calls are forgotten."""
    settings = make("alone", cache=str(tmp_path / "cache_alone"))
    run_stages(settings, "annotate")
    (tmp_path / "calls").unlink()
    return settings


def calls(tmp_path):
    """How many images the annotator was called for once, for twice, ..."""
    return Counter(Counter((tmp_path / "calls").read_text().split()).values())


def test_parts_are_gathered_without_a_call_and_forgotten(make, alone, tmp_path):
    settings = make()
    run = Run(settings)
    for shard in shards(3):
        annotate_shard(settings, shard)
        assert not run.folder.probabilities.exists()
    update_marks(run)
    update_shard_marks(run, shards(3))
    assert all(mark_of(run.folder.shard(shard.name)).exists() for shard in shards(3))
    assert calls(tmp_path) == {1: 12}
    run.finish("annotate", annotate(settings))
    assert calls(tmp_path) == {1: 12}
    assert run.recorded("annotate")["cache"]["num_made"] == 0
    assert contents(settings.folder / "probs.zarr/logits") == contents(alone.folder / "probs.zarr/logits")
    assert not run.folder.shards.exists()
    shutil.rmtree(settings.cache_folder)  # as `cache prune --all` does
    for shard in shards(3):
        annotate_shard(settings, shard)
    assert calls(tmp_path) == {1: 12}


def test_a_part_of_other_images_or_settings_has_no_mark(make, tmp_path, write_images):
    settings, part = make(), shards(2)[0]
    annotate_shard(settings, part)

    def is_marked(settings):
        update_marks(Run(settings))
        update_shard_marks(Run(settings), [part])
        return mark_of(Run(settings).folder.shard(part.name)).exists()

    assert is_marked(settings)
    assert not is_marked(make(**{"annotate.resolution": "grid"}))
    assert is_marked(settings)
    write_images(tmp_path / "data", [*IDS, "more"])
    assert not is_marked(settings), "prepare is to be run again"
    assert not is_marked(make())


def test_an_image_that_fails_in_a_part_is_tried_once_more_and_listed(make, tmp_path):
    lenient = {"annotate.max_failed_fraction": 0.1}  # of 12 images; a part has two
    settings = make(arguments={"bad_red": 250}, **lenient)
    sample = next(sample for sample in Run(settings).samples().of("unlabeled"))
    path = tmp_path / "data" / sample.image
    image = Image.open(path)
    image.paste((250, 0, 0), (0, 0, 8, 8))
    image.save(path)
    settings = make(arguments={"bad_red": 250}, **lenient)
    for shard in shards(6):
        annotate_shard(settings, shard)
    failed = annotate(settings)["failed"]
    assert list(failed) == [sample.id]
    strict = make(arguments={"bad_red": 250, "stride": 4})
    with pytest.raises(AnnotatorError, match=r"more than annotate\.max_failed_fraction"):
        annotate_shard(strict, shards(1)[0])


def test_processes_of_one_machine_share_the_images(make, alone, tmp_path, capfd):
    settings = make(**{"annotate.processes": 2})
    run_stages(settings, "annotate")
    assert calls(tmp_path) == {1: 12}
    assert contents(settings.folder / "probs.zarr/logits") == contents(alone.folder / "probs.zarr/logits")
    logged = capfd.readouterr().err
    assert "annotate 1_of_2: 6 images" in logged
    assert "annotate 2_of_2: 6/6 images" in logged


def test_a_process_that_fails_says_why_and_keeps_the_maps(make, tmp_path, capfd):
    settings = make(arguments={"stride": 0}, **{"annotate.processes": 2})
    with pytest.raises(
        StageError, match=r"failed in 2 of 2 processes \(1_of_2, 2_of_2\); fix the error above, then run"
    ):
        annotate(settings)
    assert "error: annotator noisy failed on each of the first" in capfd.readouterr().err


@pytest.mark.parametrize("value", [0, True, "all", 1.5])
def test_another_number_of_processes_is_refused_in_one_sentence(value):
    with pytest.raises(ConfigError, match=r"annotate\.processes: must be at least 1, or auto, got \S+$"):
        load_settings("demo", {"annotate.processes": value})


def test_by_default_every_visible_gpu_has_a_process_if_the_annotator_takes_any(make, monkeypatch):
    visible_gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,3")
    chosen = {
        "python": num_processes(make().annotate),
        "seem": num_processes(load_settings("demo", {}).annotate),
        "device: cuda:1": num_processes(load_settings("demo", {"annotate.seem.device": "cuda:1"}).annotate),
        "processes: 2": num_processes(load_settings("demo", {"annotate.processes": 2}).annotate),
    }
    visible_gpus.cache_clear()
    assert chosen == {"python": 1, "seem": 3, "device: cuda:1": 1, "processes: 2": 2}

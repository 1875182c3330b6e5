"""Estimates of disk space agree with what the stages write; times are measured ones only."""

import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from stage_runs import run_stages

from pipeline.annotators.build import build_annotator
from pipeline.annotators.seem import NANO_FOLDER
from pipeline.datasets import evenly_spaced
from pipeline.doctor import costs
from pipeline.doctor.costs import map_size, store_sizes
from pipeline.doctor.trial import TIMED_IMAGES, try_annotator
from pipeline.seem import Seem
from pipeline.sources import find_samples
from pipeline.store import open_calibration, open_labels, open_probabilities

NUM_IMAGES = {"labeled": 6, "unlabeled": 4, "val": 2}


def bytes_on_disk(store):
    """Of all arrays but text, before compression."""
    arrays = map(store.array, store.array_names)
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays if array.dtype.kind in "fiu")


def test_sizes_before_compression_are_those_of_the_arrays_that_the_stages_write(data, make_settings):
    settings = make_settings(resolution="grid", alphas=[0.3, 0.4])
    expected = {size.name: size.num_bytes for size in store_sizes(NUM_IMAGES, settings, None)}
    run_stages(settings)
    stores = [open(settings.folder / name) for name, open in (
        ("probs.zarr", open_probabilities), ("calibration.zarr", open_calibration), ("labels.zarr", open_labels)
    )]  # fmt: skip
    found = {store.path.name: bytes_on_disk(store) for store in stores}
    for name, num_bytes in expected.items():
        assert num_bytes == found[name], name
    assert store_sizes(NUM_IMAGES, settings, None) == []  # complete stores need nothing more


def test_a_trial_finds_the_size_of_the_compressed_maps_to_the_byte(data, make_settings):
    settings = make_settings()
    samples = [sample for sample in find_samples(settings.data)[0] if sample.split != "val"]
    tried = try_annotator(settings, samples)
    run_stages(settings, "prepare", "annotate")
    store = open_probabilities(settings.folder / "probs.zarr")
    places = [samples.index(sample) for sample in evenly_spaced(samples, TIMED_IMAGES)]
    chunks = [(store.path / f"logits/c/{place}/0/0/0").stat().st_size for place in places]
    assert tried.stored_bytes == np.mean(chunks)
    assert tried.map_size == store.maps.shape[2:]


def test_a_trial_at_the_resolution_of_the_grid_has_maps_of_its_size(data, make_settings):
    settings = make_settings(resolution="grid")
    assert list(try_annotator(settings, find_samples(settings.data)[0]).map_size) == settings.data.grid


def test_a_slow_annotator_is_timed(data, only):
    factory = {"factory": "noisy_annotator:build", "arguments": {"seconds": 0.05}}
    text = only("time of annotate", timed=True, **{"annotate.python": factory}).what
    seconds = re.search(r"for 10 images \(measured on 4: ([0-9.]+) s per image", text)
    assert float(seconds[1]) >= 0.05
    assert float(text.partition("about ")[2].partition(" s")[0]) == pytest.approx(0.5, abs=0.3)


def test_what_was_not_measured_gets_no_number(data, only):
    assert "annotate, calibrate, pseudolabel, stage1, stage2, evaluate, report: not measured" in str(
        only("not measured")
    )
    assert "probs.zarr ? (unknown; measure it with --time)" in str(only("disk:"))
    assert "(measured on 12 images" in str(only("time of prepare"))


def test_the_time_of_a_finished_stage_is_that_of_its_receipt(data, make_settings, only):
    run_stages(make_settings(), "prepare", "annotate")
    assert "in its last run (from its receipt)" in str(only("time of annotate"))
    assert "probs.zarr" not in str(only("disk:"))


@pytest.mark.parametrize("short_side", [None, 64])
def test_the_size_of_seems_maps_is_known_without_its_network(make_settings, short_side):
    section = {"checkpoint": "seem-nano", "short_side": short_side}
    settings = make_settings(annotator="seem", **{"annotate.seem": section, "data.grid": [96, 160]})
    seem = Seem.from_pretrained(NANO_FOLDER)
    image = np.zeros((1, 96, 160, 3), np.uint8)
    maps = seem.semantic_maps(image, seem.class_texts(["fish"]), short_side=short_side, size="native")
    assert map_size(settings) == maps.shape[2:]


def test_the_size_of_seems_maps_with_views_is_known_as_well(make_settings):
    views = {"annotate.seem": {"checkpoint": "seem-nano"}, "annotate.views": {"flips": True, "scales": [1.5]}}
    settings = make_settings(annotator="seem", **views, **{"data.grid": [96, 160]})
    maps = build_annotator(settings, ["a"])(np.zeros((1, 96, 160, 3), np.uint8), ["a"])
    assert map_size(settings) == maps.shape[2:]


@pytest.mark.parametrize(
    ("timed", "free", "level"), [(False, 10_000, "warning"), (True, 10_000, "warning"), (True, 100, "error")]
)
def test_a_disk_that_is_too_small_is_an_error_only_by_measure(data, only, monkeypatch, timed, free, level):
    monkeypatch.setattr(costs.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    finding = only("disk:", timed=timed)
    assert finding.level == level
    assert "set a smaller data.grid" in finding.fix


def test_an_annotator_that_fails_is_an_error(data, make_settings, only):
    factory = {"factory": "noisy_annotator:build", "arguments": {"stride": 0}}
    finding = only("the annotator failed on an image (ZeroDivisionError", timed=True, **{"annotate.python": factory})
    assert finding.level == "error"


def test_an_annotator_that_breaks_its_contract_is_an_error(data, only):
    factory = {"factory": "noisy_annotator:build", "arguments": {"space": "logits"}}
    settings = {"annotate.python": factory, "annotate.dtype": "uint16"}
    assert only("annotate.dtype is uint16", timed=True, **settings).level == "error"


def test_a_run_without_a_readable_image_cannot_be_timed(data, only):
    for path in (data / "images").glob("*.png"):
        path.write_bytes(b"no image")
    assert only("no image could be read to try the annotator", timed=True).level == "error"


def test_the_free_space_is_that_of_the_disk_where_the_results_go(data, make_settings, only):
    free = shutil.disk_usage(make_settings().folder.parents[1]).free
    text = str(only("disk:")).rpartition("; ")[2]
    assert float(text.partition(" ")[0]) == pytest.approx(free / 1e9, rel=0.05)

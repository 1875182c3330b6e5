"""annotate: the cache holds the annotator's maps, survives bad images, and refuses foreign settings."""

import numpy as np
import pytest
from stage_runs import contents, run_stages

from pipeline.annotators.build import build_annotator
from pipeline.datasets import image_to_grid, load_samples
from pipeline.errors import AnnotatorError, StoreError
from pipeline.stages.annotate import annotate
from pipeline.store import DONE, FAILED, open_probabilities

IDS = [f"im{i:02d}" for i in range(14)]


@pytest.fixture
def prepared(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", IDS)
    run_stages(make_settings(), "prepare")
    return make_settings


def red_of(settings, position):
    """Red value of the first pixel of an image as the annotator sees it."""
    index = load_samples(settings.folder / "samples.json")
    sample = index.of("labeled", "unlabeled")[position]
    return sample.id, int(image_to_grid(index.image(sample), settings.data.grid)[0, 0, 0])


@pytest.mark.parametrize(
    ("space", "dtype", "tolerance"),
    [("logits", "auto", 2e-3), ("logits", "float32", 0), ("probability", "auto", 1e-5)],
)
def test_caches_what_the_annotator_says(prepared, space, dtype, tolerance):
    settings = prepared(**{"python.arguments": {"space": space}, "annotate.dtype": dtype})
    facts = annotate(settings)
    assert (facts["num_done"], facts["failed"]) == (12, {})
    store = open_probabilities(settings.folder / "probs.zarr")
    index = load_samples(settings.folder / "samples.json")
    annotator = build_annotator(settings)
    for i, sample in enumerate(index.of("labeled", "unlabeled")):
        expected = annotator(image_to_grid(index.image(sample), settings.data.grid)[None])[0]
        assert np.abs(store.probabilities(i).maps - expected).max() <= tolerance


def test_maps_can_be_cached_at_the_resolution_of_the_grid(prepared):
    settings = prepared(resolution="grid")
    assert annotate(settings)["maps"] == [12, 3, 16, 24]


def test_a_finished_cache_is_not_made_again(prepared):
    settings = prepared()
    first = annotate(settings)
    chunk = settings.folder / "probs.zarr/logits/c/0/0/0/0"
    written = chunk.stat().st_mtime_ns
    assert annotate(settings)["fingerprint"] == first["fingerprint"]
    assert chunk.stat().st_mtime_ns == written


def test_maps_of_other_settings_are_kept_in_the_cache(prepared):
    before = annotate(prepared())
    files = contents(prepared().folder)
    assert annotate(prepared(**{"python.arguments": {"stride": 4}}))["maps"] == [12, 3, 4, 6]
    again = annotate(prepared())
    assert (again["fingerprint"], again["cache"]["num_made"]) == (before["fingerprint"], 0)
    assert contents(prepared().folder) == files


def test_a_bad_image_costs_only_itself_and_is_tried_again_by_the_next_run(prepared):
    bad, red = red_of(prepared(), 3)
    settings = prepared(**{"python.arguments": {"bad_red": red}, "max_failed_fraction": 0.1})
    facts = annotate(settings)
    assert facts["failed"] == {bad: "RuntimeError: cannot digest this image"}
    status = open_probabilities(settings.folder / "probs.zarr").status
    assert status.tolist() == [FAILED if i == 3 else DONE for i in range(12)]


def test_too_many_bad_images_stop_the_stage_and_lose_nothing(prepared):
    bad, red = red_of(prepared(), 3)
    settings = prepared(**{"python.arguments": {"bad_red": red}})
    with pytest.raises(
        AnnotatorError,
        match=rf"1 of 12 images failed, more than .*0.01; .* run snakemake .*: finished .* The first image, {bad}: ",
    ):
        annotate(settings)
    store = open_probabilities(settings.folder / "probs.zarr", writable=True)
    assert store.status[:3].tolist() == [DONE] * 3
    assert not store.state["complete"]
    assert annotate(prepared())["num_done"] == 12


def test_an_image_that_vanished_is_a_failure_not_a_crash(prepared, tmp_path):
    settings = prepared(max_failed_fraction=0.1)
    gone = load_samples(settings.folder / "samples.json").of("unlabeled")[0]
    (tmp_path / "data" / gone.image).unlink()
    assert list(annotate(settings)["failed"]) == [gone.id]


def test_fixed_point_needs_probabilities(prepared):
    with pytest.raises(AnnotatorError, match=r"dtype is uint16, .* but noisy returns logits"):
        annotate(prepared(**{"annotate.dtype": "uint16"}))


def test_a_full_disk_is_noticed_before_the_work(prepared, monkeypatch):
    free = type("Usage", (), {"free": 10})
    monkeypatch.setattr("pipeline.annotators.unchecked.shutil.disk_usage", lambda _: free)
    with pytest.raises(StoreError, match=r"needs about 0.0 GB, but 0.0 GB are free; free some"):
        annotate(prepared())


def test_the_cached_maps_of_seem_have_the_argmax_of_the_network(tmp_path):
    """The demo's SEEM through the stages: aliases, a background in the middle, fixed point in the cache."""
    from pipeline.annotators.seem import NANO_FOLDER
    from pipeline.demo.scenes import write_scenes
    from pipeline.run_file import load_settings
    from pipeline.seem import Seem

    write_scenes(tmp_path / "data", domain="target", seed=5, num_train=3, num_val=1)
    run_file = tmp_path / "nano.yaml"
    run_file.write_text(
        f"""
results: {tmp_path}/results
data:
  root: {tmp_path}/data
  layout: voc
  classes:
    - {{name: fish, values: [1]}}
    - {{name: background, values: [0]}}
    - {{name: star, prompts: [starfish, sea star], values: [2]}}
    - {{name: jellyfish, values: [5]}}
  background: background
  unknown_values: ignore
  splits: {{num_labeled: 2}}
  grid: [128, 128]
annotate: {{annotator: seem, seem: {{checkpoint: seem-nano}}}}
"""
    )
    settings = load_settings(run_file)
    run_stages(settings, "prepare")
    assert annotate(settings)["maps"] == [3, 4, 32, 32]
    store = open_probabilities(settings.folder / "probs.zarr")
    index = load_samples(settings.folder / "samples.json")
    seem = Seem.from_pretrained(NANO_FOLDER)
    texts = seem.class_texts(["fish", "background", ["starfish", "sea star"], "jellyfish"])
    for i, sample in enumerate(index.of("labeled", "unlabeled")):
        image = image_to_grid(index.image(sample), settings.data.grid)
        expected = seem.semantic_maps(image[None], texts, "cap", size="native")[0]
        cached = store.probabilities(i).maps
        assert np.abs(cached - expected).max() <= 1 / 65535
        best, second = np.sort(expected, axis=0)[[-1, -2]]
        clear = best - second > 2 / 65535  # of what the cache can tell apart
        assert clear.mean() > 0.9
        assert np.array_equal(cached.argmax(axis=0)[clear], expected.argmax(axis=0)[clear])

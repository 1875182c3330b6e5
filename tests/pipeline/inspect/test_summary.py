"""The facts of a store: what a summary counts, of whole, unfinished and damaged ones, and its lines."""

import json

import numpy as np
import pytest

import calib
from pipeline.errors import StoreError
from pipeline.inspect import format_summary, inspect_store
from pipeline.inspect.lines import sparks
from pipeline.store import OUTCOMES, open_calibration
from pipeline.store.metadata import write_metadata

GRID = (4, 10)
NAN = float("nan")


def finish_with(store, alphas, q, num_images=9):
    """Thresholds q, float32 [A, C, H * W]: every location its own."""
    region = np.arange(GRID[0] * GRID[1], dtype=np.int32).reshape(GRID)
    images = np.full(q.shape[1:], num_images, np.int64)
    classes = "pooled" if q.shape[1] == 1 else "each"
    write_metadata(store.path, store.state | {"alphas": list(alphas), "class_thresholds": classes})
    store = open_calibration(store.path, writable=True)
    store.array("alpha")[:] = alphas
    store.write_folds(np.zeros(1))
    store.write_held_out_keep_rates("pixel", {})
    largest = np.ones(q.shape[1:], np.float32)
    store.write_thresholds(store.state["variant"], calib.Thresholds(region, q, images, largest))
    store.finish()


def test_half_done_labels_are_counted_as_far_as_they_go(labels):
    facts = inspect_store(labels.path)
    assert not facts["complete"]
    assert facts["images"] == {"total": 3, "done": 2, "failed": [], "absent": 1}
    assert facts["labels"]["keep_rate"] == 40 / 80
    assert facts["labels"]["keep_rate_deciles"][::5] == [0.25, 0.5, 0.75]
    assert facts["labels"]["outcomes"] == dict(zip(OUTCOMES, [80, 40, 40, 0, 0, 0], strict=True))
    assert facts["labels"]["pixels_per_class"] == {"background": 0, "cat": 40, "dog": 0}
    assert facts["missing_chunks"] == {}
    json.dumps(facts, allow_nan=False)


def test_the_summary_says_it_in_lines(labels):
    text = format_summary(inspect_store(labels.path))
    command = f"snakemake --cores 8 pseudolabel --config run={labels.path.parent.name}"
    assert f"labels, incomplete; to finish it, run {command}" in text
    assert "alpha 0.1, variant pixel, rule no_background, fingerprint f1" in text
    assert "alpha 0.1, 0.3; rule no_background, variant pixel" in text
    assert "2 of 3 done, 0 failed, 1 to come" in text
    assert "label (sample 3, y 4, x 10) float16" in text
    assert "0.500; over the images p10 0.30  median 0.50  p90 0.70" in text
    assert "cat             40  100.00 %" in text


def test_an_empty_store_is_no_error(empty_labels):
    found = inspect_store(empty_labels.path)
    assert "no image is done yet" in format_summary(found)
    assert (found["labels"]["alphas"], found["labels"]["worst"]) == ([0.1, 0.3], [])
    json.dumps(found, allow_nan=False)


def test_a_finished_store_is_called_complete(labels, write_label):
    write_label(labels, 2, 0)
    labels.finish()
    facts = inspect_store(labels.path)
    assert facts["complete"]
    assert facts["images"]["absent"] == 0
    assert "labels, complete" in format_summary(facts)


def test_lost_chunks_are_named_with_what_to_do(labels):
    (labels.path / "label/c/1/0/0").unlink()
    facts = inspect_store(labels.path)
    assert facts["missing_chunks"] == {"label": ["im_1"]}
    text = format_summary(facts)
    assert f"label: 1 (im_1); run conformalsam inspect {labels.path} --repair && snakemake" in text


def test_failed_images_are_named(probabilities):
    facts = inspect_store(probabilities.path)
    assert facts["images"] == {"total": 3, "done": 1, "failed": ["im_1"], "absent": 1}
    text = format_summary(facts)
    assert "1 of 3 done, 1 (im_1) failed, 1 to come" in text
    assert "probability (sample 3, class 3, y 4, x 10) uint16" in text
    assert "annotator x, space probability, fingerprint f2" in text


def test_thresholds_are_summed_up_once_they_are_there(calibration):
    assert "not computed yet" in format_summary(inspect_store(calibration.path))
    q_hat = np.full((2, 1, 40), 0.5, np.float32)
    q_hat[0, 0, :10], q_hat[0, 0, 10], q_hat[1] = np.inf, NAN, 0.25
    finish_with(calibration, [0.1, 0.3], q_hat)
    found = inspect_store(calibration.path)["thresholds"]
    first, second = found["by_alpha"]
    assert first == {
        "alpha": 0.1, "q_hat": {"min": 0.5, "median": 0.5, "max": 0.5}, "uncalibrated_fraction": 10 / 40
    }  # fmt: skip
    assert (second["alpha"], second["q_hat"]["median"], second["uncalibrated_fraction"]) == (0.3, 0.25, 0)
    assert (found["alphas"], found["variant"], found["is_class_wise"]) == ([0.1, 0.3], "pixel", False)
    assert found["never_labeled_fraction"] == 0
    text = format_summary(inspect_store(calibration.path))
    assert "variant pixel, alpha 0.1, 0.3" in text
    assert "alpha 0.1   0.500 to 0.500, median 0.500; 25.0 % uncalibrated" in text
    assert "alpha 0.3   0.250 to 0.250, median 0.250; 0.0 % uncalibrated" in text
    assert "9 to 9 labeled images, median 9, behind each location; 0.0 % have none" in text


def test_class_wise_thresholds_are_counted_over_classes_and_locations(calibration):
    q_hat = np.full((1, 3, 40), 0.5, np.float32)
    q_hat[0, 2] = np.inf
    finish_with(calibration, [0.1], q_hat)
    facts = inspect_store(calibration.path)
    assert facts["thresholds"]["is_class_wise"]
    assert facts["thresholds"]["by_alpha"][0]["uncalibrated_fraction"] == pytest.approx(1 / 3)
    assert "each class has its own" in format_summary(facts)
    assert "behind each class and location" in format_summary(facts)


def test_the_images_that_keep_least_come_first(labels):
    worst = inspect_store(labels.path)["labels"]["worst"]
    assert [(image["id"], image["keep_rate"], image["empty"]) for image in worst] == [
        ("im_1", 0.25, 30), ("im_0", 0.75, 10)
    ]  # fmt: skip
    facts = inspect_store(labels.path, num_worst=1)
    assert [image["id"] for image in facts["labels"]["worst"]] == ["im_1"]
    assert "keeps least im_1  0.250  empty 0.750" in format_summary(facts)


def test_keep_rates_are_drawn_as_bars(labels):
    facts = inspect_store(labels.path)
    assert facts["labels"]["keep_rate_histogram"] == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert "images that keep 0 ▁▁█▁▁▁▁█▁▁ 1" in format_summary(facts)


def test_bars_grow_with_the_count_and_none_is_lost():
    assert sparks([0, 1, 50, 100]) == "▁▂▅█"
    assert sparks([0, 0]) == "▁▁"


def test_what_is_no_store_is_refused(labels, tmp_path):
    with pytest.raises(StoreError, match=r"no store at .*nowhere; name a probs.zarr, calibration.zarr or labels.zarr"):
        inspect_store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="label is one array of a store"):
        inspect_store(labels.path / "label")

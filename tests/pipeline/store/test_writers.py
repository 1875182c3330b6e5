"""Two writers of one store: what either of them wrote for another fingerprint is never taken for the store's own."""

import numpy as np
import pytest

import calib
from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.inspect import check_store, repair
from pipeline.store import (
    ABSENT,
    DONE,
    create_store,
    has_planes,
    keep_planes,
    open_calibration,
    open_for_inspection,
    open_labels,
    resume_or_create,
)

NUM = 4
SAMPLES = [Sample(f"im{i}", f"{i}.png", None, "unlabeled", 4, 5) for i in range(NUM)]
FACTS = {
    "class_names": ["background", "cat"],
    "background": None,
    "grid": [4, 5],
    "rule": "paper",
    "planes": "p",
    "relabel": False,
}


def begin(path, fingerprint, alphas=(0.1,)):
    """What the stage of another rule does first."""
    resume_or_create(path, "labels", FACTS | {"alphas": list(alphas), "fingerprint": fingerprint}, SAMPLES)
    return open_labels(path, writable=True)


def label(store, index, value):
    plane = np.full((4, 5), 0.5, np.float32)
    labels = np.full((len(store.alphas), 4, 5), value, np.float32)
    planes = calib.Planes(np.ones((4, 5), np.uint8), plane, plane, None)
    store.write(index, labels, planes)
    store.write_counts(index, np.array([20, 20, 0, 0, 0, 0]), np.array([0, 20]))
    store.write_observed(index, calib.observe(planes, None, 2))


def label_and_mark(store, index, value):
    label(store, index, value)
    store.mark(index, DONE)


def finished(path, fingerprint):
    store = begin(path, fingerprint)
    for i in range(NUM):
        label_and_mark(store, i, 1)
    store.finish()
    return store


def test_a_writer_that_was_stopped_and_goes_on_spoils_no_finished_store_in_silence(tmp_path):
    path = tmp_path / "labels.zarr"
    stopped = begin(path, "a")
    label_and_mark(stopped, 0, 0)
    finished(path, "b")
    label_and_mark(stopped, 1, 0)
    with pytest.raises(StoreError, match=r"3 images that are done, expected 4: .*; run conformalsam inspect"):
        open_labels(path)
    with pytest.raises(StoreError, match=r"labels.zarr was replaced by another process \(fingerprint b, expected a\)"):
        stopped.finish()
    (finding,) = [finding for finding in check_store(path).findings if finding.what == "unfinished"]
    assert finding.where == "1 (im1) were never made, or were written by another process"
    assert repair(path)["to_be_remade"] == ["im1"]

    again = begin(path, "b")
    assert again.status.tolist() == [DONE, ABSENT, DONE, DONE]
    assert again.has_planes(1)
    assert again.is_own.tolist() == [True, False, True, True]  # the planes of im1 are the other's, too
    label_and_mark(again, 1, 1)
    again.finish()
    assert [open_labels(path).label(i)[0, 0] for i in range(NUM)] == [1, 1, 1, 1]


def test_a_store_that_another_process_wrote_to_is_not_finished(tmp_path):
    path = tmp_path / "labels.zarr"
    stopped, store = begin(path, "a"), begin(path, "b")
    for i in range(NUM):
        label_and_mark(store, i, 1)
    label_and_mark(stopped, 2, 0)
    with pytest.raises(StoreError, match=r"1 of 4 images were removed or written by another process .*; run snake"):
        store.finish()
    assert not open_for_inspection(path).state["complete"]
    assert begin(path, "b").status.tolist() == [DONE, DONE, ABSENT, DONE]


def test_a_task_writes_to_no_store_but_the_one_that_its_stage_opened(tmp_path):
    path = tmp_path / "labels.zarr"
    handle = begin(path, "a").handle
    assert open_labels(handle, writable=True).fingerprint == "a"
    finished(path, "b")
    for writable in (False, True):
        with pytest.raises(StoreError, match=r"was replaced by another process .*; stop one of the two"):
            open_labels(handle, writable=writable)


def test_planes_that_another_process_wrote_are_not_kept(tmp_path):
    path = tmp_path / "labels.zarr"
    stopped = begin(path, "a")
    finished(path, "b")
    other = FACTS | {"alphas": [0.2, 0.3], "fingerprint": "c"}
    label_and_mark(stopped, 3, 0)
    assert not has_planes(path, "p")
    finished(path, "b")
    assert has_planes(path, "p")
    keep_planes(path, other)
    store = open_labels(path, writable=True)
    assert (store.is_own.all(), store.status.tolist(), store.alphas) == (True, [ABSENT] * NUM, [0.2, 0.3])


def test_thresholds_are_written_to_the_own_store_alone(tmp_path):
    path = tmp_path / "calibration.zarr"
    facts = FACTS | {
        "class_thresholds": "pooled",
        "variant": "pixel",
        "variants": ["pixel"],
        "rules": ["paper"],
        "alphas": [0.1],
    }
    create_store(path, "calibration", facts | {"fingerprint": "a"}, SAMPLES)
    stopped = open_calibration(path, writable=True)
    create_store(path, "calibration", facts | {"fingerprint": "b"}, SAMPLES)
    region, q = np.zeros((4, 5), np.int32), np.full((1, 1, 1), 0.5, np.float32)
    thresholds = calib.Thresholds(region, q, np.ones((1, 1), np.int64), np.ones((1, 1), np.float32))
    for write in (
        lambda: stopped.write_thresholds("pixel", thresholds),
        lambda: stopped.write_folds(np.zeros(NUM)),
        stopped.finish,
    ):
        with pytest.raises(StoreError, match="was replaced by another process"):
            write()
    assert not (path / "q_hat/c").exists()

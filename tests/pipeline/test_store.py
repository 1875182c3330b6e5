"""Stores: what is written is read, damage is noticed, an unfinished store is resumed, and xarray reads all of it."""

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given
from hypothesis import strategies as st

from calib import Planes, Thresholds
from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.resample import resize_bilinear, softmax
from pipeline.store import (
    ABSENT,
    DONE,
    FAILED,
    create_store,
    open_calibration,
    open_for_inspection,
    open_labels,
    open_probabilities,
    resume_or_create,
    store_state,
)

SAMPLES = [Sample(f"im{i}", f"{i}.png", None, "unlabeled", 9, 11) for i in range(3)]
NAMES = ["background", "cat", "dog"]
LABELS = {"class_names": NAMES, "background": 0, "rule": "paper", "grid": [4, 5], "alphas": [0.1], "relabel": False}


def new_labels(path, fingerprint="f1"):
    create_store(path, "labels", LABELS | {"fingerprint": fingerprint}, SAMPLES)
    return open_labels(path, writable=True)


def new_probabilities(path, space, dtype, maps_shape=(3, 4, 5), grid=(8, 10)):
    facts = {"fingerprint": "f1", "class_names": NAMES, "space": space, "grid": list(grid), "annotator": "x"}
    facts |= {"maps": list(maps_shape), "dtype": dtype}
    create_store(path, "probabilities", facts, SAMPLES)
    return open_probabilities(path, writable=True)


def finish(store):
    """Finish a store whose images are all done or failed."""
    for index in np.flatnonzero(store.status == ABSENT):
        store.mark(index, FAILED)
    store.finish()


def fill_labels(store, index, value):
    plane = np.full((4, 5), 0.5, np.float32)
    label = np.full((4, 5), value, np.float32)
    store.write(index, label[np.newaxis], Planes(np.ones((4, 5), np.uint8), plane, plane, plane))
    store.mark(index, DONE)


def test_labels_come_back_with_their_nans(tmp_path):
    store = new_labels(tmp_path / "labels.zarr")
    fill_labels(store, 1, np.nan)
    fill_labels(store, 2, 2)
    assert np.isnan(store.label(1)).all()
    assert (store.label(2) == 2).all()
    assert store.status.tolist() == [0, 1, 1]


def test_an_image_without_a_single_label_still_has_its_chunk(tmp_path):
    store = new_labels(tmp_path / "labels.zarr")
    fill_labels(store, 1, np.nan)
    assert store.missing_chunks() == {}
    (tmp_path / "labels.zarr/label/c/1/0/0").unlink()
    assert store.missing_chunks() == {"label": ["im1"]}


def test_a_flipped_bit_is_noticed(tmp_path):
    store = new_labels(tmp_path / "labels.zarr")
    fill_labels(store, 0, 1)
    chunk = tmp_path / "labels.zarr/label/c/0/0/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match=r"label of im0 is damaged .*checksum.*; run conformalsam inspect .* --repair"):
        store.label(0)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"zarr_format": 3}', "\ud800"])
def test_metadata_that_cannot_be_read_are_a_user_error_everywhere(tmp_path, content):
    path = tmp_path / "labels.zarr"
    store = new_labels(path)
    fill_labels(store, 0, 1)
    (path / "label/zarr.json").write_bytes(content.encode(errors="surrogatepass"))
    repair = r"labels.zarr: .* is damaged \(.*\); run conformalsam inspect .*labels.zarr --repair && snakemake"
    for read in (
        lambda store: store.label(0),
        lambda store: store.array("label"),
        lambda store: store.write(1, np.zeros((1, 4, 5), np.float32), None),
    ):
        with pytest.raises(StoreError, match=repair):
            read(open_labels(path, writable=True))
    (path / "zarr.json").write_bytes(content.encode(errors="surrogatepass"))
    for open_it in (open_labels, open_probabilities, store_state, open_for_inspection):
        with pytest.raises(StoreError, match=r"zarr.json is damaged|that conformalsam did not write"):
            open_it(path)


@pytest.mark.parametrize("name", ["sample", "class", "status"])
def test_coordinates_that_are_damaged_are_a_user_error(tmp_path, name):
    store = new_labels(tmp_path / "labels.zarr")
    fill_labels(store, 0, 1)
    (tmp_path / f"labels.zarr/{name}/c/0").write_bytes(b"no chunk")
    read = {"sample": "sample_ids", "class": "class_names", "status": "status"}[name]
    with pytest.raises(StoreError, match=rf"labels.zarr: {name} is damaged .*checksum.*; run conformalsam inspect"):
        getattr(open_labels(tmp_path / "labels.zarr", writable=True), read)


@pytest.mark.parametrize("name", ["sample", "height", "class"])
def test_lost_coordinates_are_written_again_when_a_store_is_resumed(tmp_path, name):
    path = tmp_path / "labels.zarr"
    fill_labels(new_labels(path), 0, 1)
    whole = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    (path / f"{name}/c/0").unlink()
    if name != "height":
        with pytest.raises(StoreError, match=f"{name} is not on disk"):
            _ = (open_labels(path, writable=True).sample_ids, open_labels(path, writable=True).class_names)
    resume_or_create(path, "labels", LABELS | {"fingerprint": "f1"}, SAMPLES)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == whole


def test_planes_are_there_if_each_of_them_is(tmp_path):
    store = new_labels(tmp_path / "labels.zarr")
    fill_labels(store, 0, 1)
    assert store.has_planes(0)
    assert not store.has_planes(1)
    (tmp_path / "labels.zarr/p_second/c/0/0/0").unlink()
    assert not store.has_planes(0)


def test_a_lost_threshold_is_not_read_as_one_that_was_never_learned(tmp_path):
    path = tmp_path / "calibration.zarr"
    facts = {"fingerprint": "f1", "class_names": NAMES, "background": None, "grid": [4, 5], "alphas": [0.1, 0.3]}
    facts |= {
        "variant": "pixel",
        "variants": ["pixel", "image"],
        "rules": ["paper"],
        "class_thresholds": "pooled",
    }
    create_store(path, "calibration", facts, SAMPLES)
    store = open_calibration(path, writable=True)
    region, q = np.zeros((4, 5), np.int32), np.array([[[0.5]], [[0.25]]], np.float32)
    thresholds = Thresholds(region, q, np.ones((1, 1), np.int64), np.ones((1, 1), np.float32))
    store.write_folds(np.zeros(3))
    store.write_thresholds("pixel", thresholds)
    store.write_thresholds("image", thresholds._replace(q=thresholds.q / 2))
    assert store.variants == ["pixel", "image"]
    assert [store.q_hat(0.3, variant)[0, 0] for variant in ("pixel", "image")] == [0.25, 0.125]
    (path / "q_hat/c/1/0/0").unlink()
    assert (store.q_hat(0.1) == 0.5).all()
    with pytest.raises(StoreError, match=r"q_hat is not on disk; run conformalsam inspect .* --repair"):
        store.q_hat(0.3)


def test_a_reader_refuses_what_is_missing_incomplete_foreign_or_of_another_kind(tmp_path):
    path = tmp_path / "labels.zarr"
    with pytest.raises(StoreError, match=r"no labels store at .*; run snakemake --cores 8 pseudolabel --config run="):
        open_labels(path)
    store = new_labels(path)
    with pytest.raises(StoreError, match="is incomplete; to finish it, run snakemake --cores 8 pseudolabel"):
        open_labels(path)
    finish(store)
    assert open_labels(path).fingerprint == "f1"
    with pytest.raises(StoreError, match="contains labels, expected probabilities"):
        open_probabilities(path)


def test_a_half_done_store_is_kept_and_a_finished_or_foreign_one_is_replaced(tmp_path):
    path = tmp_path / "labels.zarr"

    def begin(fingerprint):
        resume_or_create(path, "labels", LABELS | {"fingerprint": fingerprint}, SAMPLES)
        return open_labels(path, writable=True)

    fill_labels(begin("f1"), 0, 1)
    assert begin("f1").status.tolist() == [1, 0, 0]
    assert begin("f2").status.tolist() == [0, 0, 0]
    store = begin("f2")
    fill_labels(store, 0, 1)
    finish(store)
    assert begin("f2").status.tolist() == [0, 0, 0]


def test_raw_argmax_gives_ties_to_the_lowest_index(tmp_path):
    store = new_labels(tmp_path / "labels.zarr")
    p_foreground = np.array([0.5, 0.4, 0.3], np.float32)[:, None] * np.ones((1, 5), np.float32)
    first = np.vstack([p_foreground, p_foreground[:1]])
    planes = Planes(np.full((4, 5), 2, np.uint8), first, np.zeros_like(first), np.full((4, 5), 0.4, np.float32))
    store.write(0, np.zeros((1, 4, 5), np.float32), planes)
    assert store.raw_argmax(0)[:, 0].tolist() == [2, 0, 0, 2]


def test_xarray_reads_names_dimensions_and_nans(tmp_path, recwarn):
    store = new_labels(tmp_path / "labels.zarr")
    for index in range(3):
        fill_labels(store, index, np.nan if index else 2)
    store.finish()
    dataset = xarray.open_zarr(tmp_path / "labels.zarr")
    assert dataset["label"].dims == ("sample", "y", "x")
    assert [str(name) for name in dataset["class"].values] == NAMES
    assert [str(name) for name in dataset["sample"].values] == ["im0", "im1", "im2"]
    assert np.isnan(dataset["label"].values).mean() == pytest.approx(2 / 3)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_xarray_decodes_fixed_point_probabilities(tmp_path):
    store = new_probabilities(tmp_path / "probs.zarr", "probability", "uint16")
    maps = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    store.write(0, maps)
    store.mark(0, DONE)
    finish(store)
    read = xarray.open_zarr(tmp_path / "probs.zarr")["probability"].values[0]
    assert np.abs(read - maps).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize(("space", "dtype"), [("logits", "float16"), ("logits", "float32"), ("probability", "uint16")])
def test_probabilities_are_those_of_torch_on_the_stored_maps(tmp_path, space, dtype):
    store = new_probabilities(tmp_path / "probs.zarr", space, dtype)
    maps = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    store.write(1, maps)
    stored = maps.astype(dtype).astype(np.float32) if space == "logits" else np.rint(maps * 65535) / np.float32(65535)
    expected = torch.nn.functional.interpolate(torch.from_numpy(stored)[None], size=(8, 10), mode="bilinear")[0]
    expected = expected.softmax(dim=0) if space == "logits" else expected
    assert np.abs(store.probabilities(1).rows(slice(None)) - expected.numpy()).max() < 1e-6


def test_row_strips_together_are_the_whole_map_to_the_bit(tmp_path):
    store = new_probabilities(tmp_path / "probs.zarr", "logits", "float16", grid=(600, 900))
    store.write(0, np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32))
    reader = store.probabilities(0)
    strips = list(reader.strips())
    assert len(strips) > 1
    assert np.array_equal(np.concatenate([strip for _, strip in strips], axis=1), reader.rows(slice(None)))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_bilinear_agrees_with_torch(height, width, new_height, new_width, seed):
    maps = np.random.default_rng(seed).normal(size=(2, height, width)).astype(np.float32)
    size = (new_height, new_width)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=size, mode="bilinear")[0].numpy()
    assert np.abs(resize_bilinear(maps, size) - expected).max() < 1e-5


def test_softmax_survives_large_logits():
    logits = np.array([1000.0, 0.0, -1000.0], np.float32).reshape(3, 1, 1)
    assert softmax(logits).ravel().tolist() == [1.0, 0.0, 0.0]


@given(st.integers(1, 255), st.integers(1, 3), st.sampled_from([1, 511, 512, 700]), st.sampled_from([0.1, 4, 60]))
def test_a_softmax_agrees_with_torch_and_does_not_depend_on_the_order_of_the_axes(classes, height, width, scale):
    rng = np.random.default_rng(classes)
    logits = rng.normal(scale=scale, size=(classes, height, width)).astype(np.float32)
    probabilities = softmax(logits)
    expected = torch.from_numpy(logits).double().softmax(dim=0).numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=(classes + 120) * 6e-8, atol=1e-37)
    assert probabilities.max() <= 1
    classes_last = np.ascontiguousarray(logits.transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(softmax(classes_last), probabilities)
    np.testing.assert_array_equal(softmax(logits[:, :, ::-1]), probabilities[:, :, ::-1])


def test_a_softmax_of_broken_logits_is_nan_at_that_pixel_only():
    logits = np.zeros((3, 1, 4), np.float32)
    logits[1, 0, :3] = np.nan, np.inf, -np.inf
    assert np.isnan(softmax(logits)).tolist() == [[[True, True, False, False]]] * 3
    assert softmax(logits)[:, 0, 2].tolist() == [0.5, 0, 0.5]

"""The method for arrays in memory: thresholds, labels of the pipeline, types of arrays, errors."""

import numpy as np
import pytest
import torch
import xarray
import zarr
from stage_runs import labels_of, probabilities_of, run_stages

import calib
from pipeline.datasets import load_samples
from pipeline.store import open_calibration


def two_classes(p_first):
    """Maps [L, 2, 1, 1] of images of one pixel, from the probabilities of class 0."""
    p = np.asarray(p_first, np.float32)[:, None]
    return np.stack([p, 1 - p], axis=1)[..., None]


def random_maps(num_images, num_classes=3, shape=(4, 6), seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, num_classes, (num_images, *shape))
    logits = rng.normal(size=(num_images, num_classes, *shape)) + np.moveaxis(np.eye(num_classes)[masks], -1, 1)
    exp = np.exp(logits)
    return (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32), masks


def test_of_19_scores_the_18th_is_the_threshold_at_alpha_a_tenth():
    """Scores of class 0 are 0.01, ..., 0.19; ceil(20 * 0.9) = 18."""
    probabilities = two_classes(1 - np.arange(1, 20) / 100)
    fitted = calib.calibrate(probabilities, np.zeros((19, 1, 1), np.uint8), alpha=0.1)
    assert fitted.thresholds.map(0) == np.float32(1) - probabilities[17, 0]
    labels = fitted.label(two_classes([0.83, 0.81, 0.1]))
    np.testing.assert_array_equal(labels.ravel(), [0, np.nan, 1])


def test_too_few_images_abstain_everywhere():
    probabilities, masks = random_maps(8)
    assert np.isnan(calib.calibrate(probabilities, masks, alpha=0.1).label(probabilities)).all()
    assert not np.isnan(calib.calibrate(probabilities, masks, alpha=0.2).label(probabilities)).all()


@pytest.mark.parametrize(
    ("stage", "ours"),
    [
        ({"alpha": 0.3}, {}),
        (
            {"alpha": 0.3, "variant": "image", "class_thresholds": "each", "rule": "argmax"},
            {"variant": "image", "classes": "each", "rule": "argmax"},
        ),
    ],
    ids=["pixel", "each class"],
)
def test_the_labels_are_those_of_the_pipeline(tmp_path, write_images, make_settings, stage, ours):
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)])
    settings = make_settings(**stage)
    run_stages(settings)
    index = load_samples(settings.folder / "samples.json")
    store = open_calibration(settings.folder / "calibration.zarr")
    masks = [store.read_chunk("truth", i) for i in range(len(store.sample_ids))]
    by_id = {sample.id: sample for sample in index.of("labeled")}
    maps = probabilities_of(settings, [by_id[sample_id] for sample_id in store.sample_ids])
    fitted = calib.calibrate(maps, masks, alpha=0.3, background=0, **ours)
    labels = fitted.label(probabilities_of(settings, index.of("unlabeled")))
    np.testing.assert_array_equal(labels, labels_of(settings))


def test_every_kind_of_array_gives_the_same_labels(tmp_path):
    probabilities, masks = random_maps(12)
    expected = calib.calibrate(probabilities, masks, alpha=0.2, background=0).label(probabilities[:3])
    stored = zarr.create_array(tmp_path / "maps.zarr", data=probabilities)
    for maps, truth in (
        (torch.tensor(probabilities, requires_grad=True), torch.tensor(masks)),
        (stored, zarr.create_array(tmp_path / "masks.zarr", data=masks)),
        (xarray.DataArray(probabilities), xarray.DataArray(masks)),
        (list(probabilities), list(masks.astype(np.uint8))),
        (probabilities.astype(np.float64), masks.astype(np.int32)),
    ):
        fitted = calib.calibrate(maps, truth, alpha=0.2, background=0)
        np.testing.assert_array_equal(fitted.label(maps[:3]), expected)
        np.testing.assert_array_equal(fitted.label(maps[1]), expected[1])


def test_held_out_estimates_do_not_use_the_labels_of_the_judged_image():
    """Maps of chance: coverage is near its target on held-out images, and labels are as right as chance."""
    rng = np.random.default_rng(1)
    probabilities, _ = random_maps(60, shape=(8, 8))
    held_out = calib.calibrate(probabilities, rng.integers(0, 3, (60, 8, 8)), alpha=0.2).held_out
    assert held_out.coverage[1] <= 0.82
    assert held_out.coverage[0] > 0.78
    assert held_out.precision[0] == pytest.approx(1 / 3, abs=0.05)
    assert held_out.raw_precision[0] == pytest.approx(1 / 3, abs=0.05)
    assert f"{held_out.precision[0]:.1%} of the labels are correct" in str(held_out)
    assert calib.calibrate(probabilities[:1], np.zeros((1, 8, 8), int)).held_out is None


def test_void_is_not_calibrated_on():
    probabilities, masks = random_maps(12)
    masks[:, :, 0] = 7
    fitted = calib.calibrate(probabilities, masks, alpha=0.2, ignore_index=7)
    assert np.isnan(fitted.label(probabilities)[:, :, 0]).all()
    assert not np.isnan(fitted.label(probabilities)[:, :, 1:]).any(axis=(0, 1)).all()


PROBABILITIES, MASKS = random_maps(5)


@pytest.mark.parametrize(
    ("maps", "masks", "options", "message"),
    [
        (np.log(PROBABILITIES), MASKS, {}, "expected probabilities from 0 to 1; for logits, give the softmax"),
        (PROBABILITIES * np.nan, MASKS, {}, "expected probabilities"),
        (np.moveaxis(PROBABILITIES, 1, -1), MASKS, {}, r"move them to the front with numpy.moveaxis\(maps, -1, -3\)"),
        (PROBABILITIES, MASKS[:, :2], {}, "resize one of them"),
        (PROBABILITIES, MASKS[:4], {}, "5 maps and 4 masks"),
        (PROBABILITIES, MASKS + 1, {}, r"masks\[0\] holds \[3\], expected class indices from 0 to 2, or 255"),
        (PROBABILITIES, -MASKS, {}, r"holds \[-2, -1\]"),
        (PROBABILITIES, MASKS / 1, {}, "is float64, expected integers"),
        (PROBABILITIES[:, 0], MASKS, {}, r"expected float \[K, H, W\]"),
        (PROBABILITIES > 0.5, MASKS, {}, "is bool"),
        ([*PROBABILITIES[:4], PROBABILITIES[4, :2]], np.minimum(MASKS, 1), {}, r"probabilities\[4\] has the shape"),
        (PROBABILITIES, MASKS, {"alpha": 10}, "alpha is 10"),
        (PROBABILITIES, MASKS, {"background": 3}, "background is 3, expected a class index from 0 to 2"),
        (PROBABILITIES, MASKS, {"rule": "papr"}, "did you mean paper"),
        (PROBABILITIES, MASKS, {"variant": "risk"}, "does not bound coverage"),
        (PROBABILITIES, MASKS, {"classes": "each"}, "use variant='image'"),
    ],
)
def test_wrong_arrays_and_options_are_refused(maps, masks, options, message):
    with pytest.raises(ValueError, match=message):
        calib.calibrate(maps, masks, **options)


def test_maps_of_another_size_are_not_labeled():
    with pytest.raises(ValueError, match="resize the maps of labeled and unlabeled images"):
        calib.calibrate(PROBABILITIES, MASKS).label(PROBABILITIES[:, :, :2])


def test_copies_of_images_in_one_unit_change_no_held_out_estimate():
    probabilities, masks = random_maps(10)
    once = calib.calibrate(probabilities, masks, alpha=0.2, variant="image")
    thrice = [np.repeat(values, 3, axis=0) for values in (probabilities, masks)]
    together = calib.calibrate(*thrice, alpha=0.2, variant="image", units=np.repeat(list("abcdefghij"), 3).tolist())
    apart = calib.calibrate(*thrice, alpha=0.2, variant="image")
    assert together.held_out.raw_precision == pytest.approx(once.held_out.raw_precision)
    width = [one.held_out.raw_precision[2] - one.held_out.raw_precision[1] for one in (together, apart)]
    assert width[1] < 0.75 * width[0]
    assert calib.calibrate(probabilities, masks, units=["a"] * 10).held_out is None
    with pytest.raises(ValueError, match="units has 2 names for 10 images; give one for each image"):
        calib.calibrate(probabilities, masks, units=["a", "b"])

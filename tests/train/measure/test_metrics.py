import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.measure.metrics import class_areas, confusion_matrix, iou_per_class, mean_iou, miou_interval, pixel_accuracy

COUNTED_BY_HAND = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])


def naive_confusion(prediction, target, num_classes):
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for predicted, true in zip(prediction.flat, target.flat, strict=True):
        if true != 255:
            matrix[true, predicted] += 1
    return matrix


def test_rows_are_true_classes_and_ignored_pixels_do_not_count():
    target = torch.tensor([[0, 0, 1], [255, 1, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [0, 0, 2]], dtype=torch.uint8)
    assert confusion_matrix(prediction, target, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(2, 255))
def test_equals_a_double_loop(seed, num_classes):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, (2, 7, 5)).astype(np.uint8)
    target[rng.random(target.shape) < 0.2] = 255
    prediction = rng.integers(0, num_classes, target.shape).astype(np.uint8)
    ours = confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(target), num_classes)
    assert np.array_equal(ours.numpy(), naive_confusion(prediction, target, num_classes))


def test_iou_is_intersection_over_union_and_nan_for_an_absent_class():
    np.testing.assert_allclose(iou_per_class(COUNTED_BY_HAND), [3 / 6, 4 / 7, np.nan])


def test_mean_iou_leaves_out_absent_classes():
    assert mean_iou(COUNTED_BY_HAND) == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_mean_iou_of_published_code_counts_an_absent_class_as_zero():
    assert mean_iou(COUNTED_BY_HAND, "zero") == pytest.approx((3 / 6 + 4 / 7 + 0) / 3)


def test_areas_are_correct_true_and_predicted_pixels():
    assert class_areas(torch.from_numpy(COUNTED_BY_HAND)).tolist() == [[3, 4, 0], [4, 6, 0], [5, 5, 0]]


def areas_of(*confusions):
    return np.stack([class_areas(torch.tensor(confusion)).numpy() for confusion in confusions])


def test_of_two_images_the_interval_reaches_from_one_to_the_other():
    """A resampling is twice the first (probability 1/4), twice the second (1/4) or both."""
    good, bad = [[8, 0], [0, 8]], [[6, 2], [2, 6]]
    assert miou_interval(areas_of(good, bad), "skip", seed=1) == pytest.approx((6 / 10, 1))


def test_equal_images_have_an_interval_of_width_zero():
    assert miou_interval(areas_of(*[COUNTED_BY_HAND] * 5), "zero", seed=1) == pytest.approx(
        (mean_iou(COUNTED_BY_HAND, "zero"),) * 2
    )


def test_one_image_and_images_of_void_have_no_interval():
    nothing = np.zeros((3, 3), np.int64)
    assert miou_interval(areas_of(COUNTED_BY_HAND, nothing), "skip", seed=1) is None
    assert miou_interval(np.zeros((0, 3, 2), np.int64), "skip", seed=1) is None


@given(st.integers(0, 2**32 - 1))
def test_the_interval_contains_the_measured_miou(seed):
    confusions = np.random.default_rng(seed).integers(0, 50, (30, 3, 3))
    low, high = miou_interval(areas_of(*confusions), "skip", seed)
    assert low < mean_iou(confusions.sum(axis=0)) < high
    assert miou_interval(areas_of(*confusions), "skip", seed) == (low, high)


def test_a_class_that_is_only_predicted_counts_as_zero():
    assert mean_iou(np.array([[3, 1], [0, 0]])) == pytest.approx(3 / 4 / 2)


def test_pixel_accuracy_is_the_fraction_on_the_diagonal():
    assert pixel_accuracy(COUNTED_BY_HAND) == 7 / 10


def test_nothing_counted_is_nan():
    nothing = np.zeros((3, 3), np.int64)
    assert np.isnan([mean_iou(nothing), mean_iou(nothing, "zero"), pixel_accuracy(nothing)]).all()


def test_the_interval_resamples_units_of_images():
    """Three copies of one image and three of another in two units: as for two images; a single unit has none."""
    good, bad = [[8, 0], [0, 8]], [[6, 2], [2, 6]]
    areas = areas_of(good, bad, good, bad, good, bad)
    assert miou_interval(areas, "skip", 1, np.array([0, 1, 0, 1, 0, 1])) == pytest.approx((6 / 10, 1))
    assert miou_interval(areas, "skip", 1, np.zeros(6, int)) is None

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.measure.boundary import boundary_scores, fraction_near, is_boundary, without_rims

SIDE = 12
DIAGONAL = SIDE * 2**0.5


def square(left):
    """A 4 x 4 square of class 1 in rows 3 to 6, from a column on."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[3:7, left : left + 4] = 1
    return mask


def naive_boundary(mask, k):
    height, width = mask.shape
    points = []
    for y, x in np.ndindex(mask.shape):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        others = [mask[a, b] for a, b in beside if 0 <= a < height and 0 <= b < width]
        if mask[y, x] == k and any(other not in (k, 255) for other in others):
            points.append((y, x))
    return points


def naive_closed(truth, pixels):
    """Ties between equally near classes are broken as in `without_rims`, because the choice among them is free."""
    closed, given = truth.copy(), without_rims(truth, pixels)
    points = np.argwhere(truth != 255)
    for y, x in np.argwhere(truth == 255):
        distances = ((points - (y, x)) ** 2).sum(axis=1)
        nearest = {truth[tuple(point)] for point in points[distances == distances.min()]}
        if distances.min() <= pixels**2:
            assert given[y, x] in nearest
            closed[y, x] = given[y, x]
    return closed


def naive_fraction(points, others, pixels):
    near = [any((a - c) ** 2 + (b - d) ** 2 <= pixels**2 for c, d in others) for a, b in points]
    return sum(near) / len(near) if near else 1.0


@pytest.mark.parametrize(("pixels", "fraction"), [(0, 4 / 12), (1, 8 / 12), (2, 1)])
def test_a_shifted_square_has_the_f_score_counted_by_hand(pixels, fraction):
    """Both outlines have 12 pixels, 2 columns apart: 4 coincide, 8 are at most one pixel away, all at most two."""
    scores = boundary_scores(square(3), square(5), 2, tolerance=max(0, pixels - 0.5) / DIAGONAL)
    np.testing.assert_allclose(scores[:, 1], fraction)


def test_too_little_boundary_lowers_recall_and_not_precision():
    missing = np.zeros((SIDE, SIDE), np.uint8)
    missing[3:7, 3] = 1  # one column of the square: 4 pixels, all of its outline
    precision, recall, f = boundary_scores(square(3), missing, 2, tolerance=0)[:, 1]
    assert (precision, recall) == (1, 4 / 12)
    assert f == pytest.approx(0.5)


def test_a_fraction_of_a_pixel_is_rounded_up():
    scores = boundary_scores(square(3), square(4), 2, tolerance=0.01 / DIAGONAL)
    np.testing.assert_allclose(scores[:, 1], 1)


def test_the_right_prediction_scores_one_and_a_class_without_boundary_nothing():
    scores = boundary_scores(square(3), square(3), 3, tolerance=0)
    assert scores[:, :2].tolist() == [[1, 1]] * 3
    assert np.isnan(scores[:, 2]).all()


def test_the_border_of_the_image_is_no_boundary():
    assert not is_boundary(np.ones((4, 5), np.uint8)).any()


def rimmed(inner, outer):
    """A square of class 1 whose sides lie `inner` pixels from the border, in void that ends `outer` pixels from it."""
    mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    mask[outer:-outer, outer:-outer] = 255
    mask[inner:-inner, inner:-inner] = 1
    return mask


def test_a_boundary_runs_along_the_middle_of_a_rim_of_void():
    truth = rimmed(9, 6)  # a rim of 3 pixels, as in VOC
    assert not is_boundary(truth).any()
    closed = without_rims(truth, 2)
    inside = closed == 1
    assert set(np.unique(closed)) == {0, 1}
    assert inside[8:-8, 8:-8].all()
    assert not inside[:7].any()
    middle, off = (rimmed(inner, inner) for inner in (7, 12 - 9))
    assert boundary_scores(truth, middle, 2, tolerance=1.5 / (2 * DIAGONAL))[2, 1] == 1
    assert boundary_scores(truth, off, 2, tolerance=1.5 / (2 * DIAGONAL))[2, 1] == 0


def test_wide_void_has_no_boundary_and_hides_that_of_the_prediction():
    truth = rimmed(9, 2)  # 7 pixels of void
    prediction = rimmed(5, 5)  # ends amid the void
    assert np.isnan(boundary_scores(truth, prediction, 2, tolerance=1.5 / (2 * DIAGONAL))).all()
    everything = np.full_like(truth, 255)
    assert np.isnan(boundary_scores(everything, prediction, 2, tolerance=0.01)).all()


def test_a_boundary_that_only_one_of_the_two_has_scores_zero():
    nothing = np.zeros((SIDE, SIDE), np.uint8)
    assert boundary_scores(square(3), nothing, 2, 0.01)[:, 1].tolist() == [1, 0, 0]
    assert boundary_scores(nothing, square(3), 2, 0.01)[:, 1].tolist() == [0, 1, 0]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(0, 3))
def test_equals_a_loop_over_pixels(seed, num_classes, pixels):
    rng = np.random.default_rng(seed)
    truth, prediction = (np.repeat(np.repeat(rng.integers(0, num_classes, (3, 3)), 3, 0), 3, 1) for _ in range(2))
    truth, prediction = truth.astype(np.uint8), prediction.astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    scores = boundary_scores(truth, prediction, num_classes, tolerance=max(0, pixels - 0.5) / np.hypot(*truth.shape))
    truth = naive_closed(truth, pixels)
    seen = np.where(truth == 255, 255, prediction)
    for k in range(num_classes):
        true, predicted = naive_boundary(truth, k), naive_boundary(seen, k)
        if not true and not predicted:
            assert np.isnan(scores[:, k]).all()
            continue
        precision, recall = naive_fraction(predicted, true, pixels), naive_fraction(true, predicted, pixels)
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0
        np.testing.assert_allclose(scores[:, k], [precision, recall, f])


def test_the_distance_is_euclidean_and_its_bound_inclusive():
    assert fraction_near(np.array([[0, 0], [3, 4], [0, 6]]), np.array([[0, 0]]), 5) == 2 / 3

"""Scores against the K-fold NaN array of Eq. 3, and refusal of values that are neither a class nor void."""

import numpy as np
import pytest
from literal import literal_inverse_maps

from calib import true_class_scores


def test_scores_by_one_minus_the_probability_of_the_true_class():
    probabilities = np.array([[[0.9, 0.25]], [[0.1, 0.75]]], dtype=np.float32)
    mask = np.array([[0, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(true_class_scores(probabilities, mask), np.float32([[1 - np.float32(0.9), 0.75]]))


def test_void_pixels_have_no_score():
    probabilities = np.full((2, 1, 3), 0.5, dtype=np.float32)
    scores = true_class_scores(probabilities, np.array([[255, 1, 255]], dtype=np.uint8))
    np.testing.assert_array_equal(scores, np.float32([[np.nan, 0.5, np.nan]]))


def test_ignore_index_may_be_an_index_that_the_map_has():
    probabilities = np.full((3, 1, 2), 0.5, dtype=np.float32)
    scores = true_class_scores(probabilities, np.array([[0, 2]], dtype=np.uint8), ignore_index=0)
    np.testing.assert_array_equal(scores, np.float32([[np.nan, 0.5]]))


def test_equals_the_values_of_equation_3():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=(3, 8, 9)).transpose(0, 3, 1, 2).astype(np.float32)
    masks = rng.choice(np.uint8([0, 1, 2, 3, 255]), size=(3, 8, 9))
    ours = np.stack([true_class_scores(*pair) for pair in zip(probabilities, masks, strict=True)])
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, np.fmax.reduce(literal_inverse_maps(probabilities, masks), axis=1))


def test_does_not_change_its_arguments():
    probabilities, mask = np.full((2, 1, 2), 0.5, dtype=np.float32), np.array([[1, 255]], dtype=np.uint8)
    true_class_scores(probabilities, mask)
    assert (probabilities == 0.5).all()
    assert mask.tolist() == [[1, 255]]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_probability_is_an_error_and_not_void(broken):
    probabilities = np.full((2, 2, 2), 0.5, dtype=np.float32)
    probabilities[1, 0, 0] = broken
    with pytest.raises(ValueError, match="NaN or infinite at 1 of 3 labeled pixels"):
        true_class_scores(probabilities, np.array([[1, 1], [0, 255]], dtype=np.uint8))


def test_a_class_that_the_map_lacks_is_an_error():
    with pytest.raises(ValueError, match=r"mask holds class \[2, 7\], but the probability map has classes 0 to 1 only"):
        true_class_scores(np.full((2, 1, 3), 0.5, dtype=np.float32), np.array([[7, 2, 1]], dtype=np.uint8))

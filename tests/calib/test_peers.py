"""Thresholds of one pixel against crepes and MAPIE, two libraries of conformal prediction, and where they deviate."""

import math
from fractions import Fraction

import numpy as np
import pytest
from crepes import ConformalClassifier
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from calib import conformal_rank, pixel_quantile

NUM_CLASSES = 3
CASES = pytest.mark.parametrize(("n", "alpha"), [(92, 0.05), (99, 0.1), (9, 0.1), (1464, 0.01), (9, 0.7), (20, 0.3)])


def pixel(n, seed=0):
    """Class probabilities [n, K] of one pixel in n images, and its true class in each."""
    rng = np.random.default_rng((n, seed))
    return rng.dirichlet(np.ones(NUM_CLASSES), size=n), rng.permutation(np.arange(n) % NUM_CLASSES)


def scores_of(probabilities, truth):
    return (1 - np.take_along_axis(probabilities, truth[:, np.newaxis], axis=1)).astype(np.float32)


def threshold_of(scores, alpha):
    return pixel_quantile(scores.reshape(-1, 1, 1), alpha).item()


def rank_of_the_largest_in(scores, is_in_set):
    """Which of the labeled scores is the largest that is in the set; n + 1 if even more is."""
    return int(np.count_nonzero(is_in_set(np.append(np.sort(scores, axis=None), 1.5))))


def confidence(alpha):
    """1 - alpha as one would type it."""
    return float(1 - Fraction(str(alpha)))


def crepes_sets(scores, test_scores, alpha):
    """Is a score in the set? bool, of the shape of test_scores [N, K]."""
    classifier = ConformalClassifier().fit(scores.ravel())
    return classifier.predict_set(test_scores, confidence=confidence(alpha), smoothing=False).astype(bool)


def crepes_takes_one_rank_more(n, alpha):
    """crepes takes a score whose p-value m / (n + 1) is at least 1 - confidence; a p-value of alpha is one too small
    to be in the set. So it deviates where (n + 1) alpha is a whole number m, unless 1 - confidence comes out above
    m / (n + 1) in floating point.
    """
    m = (n + 1) * Fraction(str(alpha))
    return m.denominator == 1 and int(m) / (n + 1) >= 1 - confidence(alpha)


@CASES
def test_crepes_takes_the_same_rank_or_where_alpha_is_a_p_value_one_more(n, alpha):
    scores = scores_of(*pixel(n))
    rank = rank_of_the_largest_in(scores, lambda tested: crepes_sets(scores, tested[:, np.newaxis], alpha))
    assert rank == conformal_rank(n, alpha) + crepes_takes_one_rank_more(n, alpha)


def test_crepes_takes_rank_91_of_99_at_alpha_10_percent_and_all_of_9():
    assert crepes_takes_one_rank_more(99, 0.1)
    assert conformal_rank(99, 0.1) == 90
    scores = scores_of(*pixel(9))
    assert threshold_of(scores, 0.1) == scores.max()
    assert crepes_sets(scores, np.array([[2.0]]), 0.1).all()  # a score larger than all of them is in its set


@CASES
def test_prediction_sets_are_those_of_crepes(n, alpha):
    scores = scores_of(*pixel(n))
    test_scores = (1 - pixel(50, seed=1)[0]).astype(np.float32)
    theirs, ours = crepes_sets(scores, test_scores, alpha), test_scores <= threshold_of(scores, alpha)
    assert (theirs >= ours).all()
    if not crepes_takes_one_rank_more(n, alpha):
        np.testing.assert_array_equal(theirs, ours)


class Fixed(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose features are its probabilities."""

    classes_ = np.arange(NUM_CLASSES)
    n_features_in_ = NUM_CLASSES

    def fit(self, features, classes):
        return self

    def predict_proba(self, features):
        return features

    def predict(self, features):
        return features.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


def mapie_sets(probabilities, truth, test_probabilities, alpha):
    classifier = SplitConformalClassifier(
        Fixed(), confidence_level=confidence(alpha), conformity_score="lac", prefit=True
    )
    classifier.conformalize(probabilities, truth)
    return classifier.predict_set(test_probabilities)[1][:, :, 0]


def mapie_refuses(n, alpha):
    """MAPIE asks for n >= 1 / alpha, although n >= 1 / alpha - 1 is enough for a finite threshold."""
    return n < max(1 / alpha, 1 / (1 - alpha))


def mapie_takes_one_rank_more(n, alpha):
    """MAPIE rounds (n + 1) (1 - alpha) up in floating point, where it may lie above the whole number that it is."""
    return math.ceil((n + 1) * (1 - alpha)) > conformal_rank(n, alpha)


@CASES
def test_prediction_sets_are_those_of_mapie_or_one_rank_larger_where_it_rounds_or_refused(n, alpha):
    probabilities, truth = pixel(n)
    scores = scores_of(probabilities, truth)
    own = np.argsort(scores, axis=None)  # their scores are the candidates for the threshold
    tested = np.concatenate([probabilities[own], pixel(50, seed=1)[0]])
    if mapie_refuses(n, alpha):
        with pytest.raises(ValueError, match="Number of samples of the score is too low"):
            mapie_sets(probabilities, truth, tested, alpha)
        assert conformal_rank(n, alpha) >= n  # no other threshold than the largest score is refused
        return
    theirs = mapie_sets(probabilities, truth, tested, alpha)
    ours = (1 - tested).astype(np.float32) <= threshold_of(scores, alpha)
    rank = conformal_rank(n, alpha) + mapie_takes_one_rank_more(n, alpha)
    assert np.count_nonzero(theirs[np.arange(n), truth[own]]) == rank
    assert (theirs >= ours).all()
    if not mapie_takes_one_rank_more(n, alpha):
        np.testing.assert_array_equal(theirs, ours)


def test_mapie_takes_rank_4_of_9_at_alpha_70_percent():
    assert conformal_rank(9, 0.7) == 3
    assert mapie_takes_one_rank_more(9, 0.7)


def test_mapie_refuses_19_images_at_alpha_5_percent_which_we_calibrate_by_the_largest_score():
    probabilities, truth = pixel(19)
    scores = scores_of(probabilities, truth)
    assert threshold_of(scores, 0.05) == scores.max()
    with pytest.raises(ValueError, match="Number of samples of the score is too low"):
        mapie_sets(probabilities, truth, probabilities, 0.05)

"""Thresholds of every stop as codes and fractions."""

import base64
import zlib

import numpy as np

from pipeline.gallery.labeled_run import Stops
from pipeline.gallery.thresholds import INFINITE, NONE, STEPS, coded, is_flat, threshold_facts, too_few
from pipeline.settings import CalibrateSettings

NAN, INF = float("nan"), float("inf")


def stops(q, n_valid, alphas=(0.1, 0.25)):
    return Stops(alphas, np.array(q, np.float32), np.array(n_valid, np.int64), held_out=None)


def test_a_code_is_a_threshold_or_says_why_there_is_none():
    q = np.array([0, 0.5, 1, -1, INF, NAN], np.float32)
    assert coded(q).tolist() == [0, round(STEPS / 2), STEPS, 0, INFINITE, NONE]
    assert len({*range(STEPS + 1), INFINITE, NONE}) == STEPS + 3 <= 256


def test_fractions_of_locations_with_too_few_images():
    case = stops([[[INF, INF, 0.5, NAN]], [[0.5, 0.5, 0.5, NAN]]], [[4, 5, 9, 0]])
    assert too_few(case, CalibrateSettings()) == [0.5, 0.0]


def test_the_largest_score_does_not_hide_that_images_are_too_few():
    case = stops([[[0.9, 0.9, 0.5, NAN]], [[0.5, 0.5, 0.5, NAN]]], [[2, 8, 9, 0]])
    # 9 images are the fewest for alpha 0.1, 3 for 0.25; where there is no image, there is no threshold to speak of
    assert too_few(case, CalibrateSettings(uncalibrated="max")) == [0.5, 0.25]
    assert too_few(case, CalibrateSettings(uncalibrated="max", quantile="paper")) == [0.0, 0.0]


def test_a_map_is_flat_if_thresholds_and_images_are_the_same_everywhere():
    assert is_flat(stops([[[INF, INF]], [[0.5, 0.5]]], [[4, 4]]))
    assert is_flat(stops([[[NAN, NAN]], [[NAN, NAN]]], [[0, 0]]))
    assert not is_flat(stops([[[INF, INF]], [[0.5, 0.6]]], [[4, 4]]))
    assert not is_flat(stops([[[INF, INF]], [[0.5, 0.5]]], [[4, 5]]))


def test_numbers_are_of_the_whole_map_and_pictures_of_a_part():
    case = stops([[[0.0, 0.5, 0.7, INF]], [[INF, NAN, NAN, INF]]], [[4, 5, 6, 7]])
    facts = threshold_facts(case, CalibrateSettings(), longest=2)
    assert facts["spread"] == [[0.0, 0.5, 0.7], None]
    assert facts["validRange"] == [4, 7]
    assert facts["size"] == [1, 2]
    assert np.frombuffer(zlib.decompress(base64.b64decode(facts["valid"])), "<i4").tolist() == [5, 7]
    assert list(zlib.decompress(base64.b64decode(facts["q"]))) == [round(STEPS / 2), INFINITE, NONE, INFINITE]

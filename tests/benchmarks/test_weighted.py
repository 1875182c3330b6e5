"""The weighted threshold: equal weights give that of variant image, and a case that can be counted by hand."""

import numpy as np
import weighted

import calib
from calib.histogram import grid_value


def test_equal_weights_give_the_threshold_of_variant_image():
    score = np.random.default_rng(0).random((25, 4, 6)).astype(np.float32)
    found = weighted.thresholds(weighted.below(score), np.ones(25), 1.0)
    maps = calib.ArrayMaps({"score": score, "truth": np.zeros(score.shape, np.uint8)})
    (fitted,) = calib.fit(calib.Variant("image", weighted.ALPHAS), maps, np.zeros(25, np.int64))
    assert [grid_value(number) for number in found] == fitted.q.ravel().tolist()


def test_the_weight_of_an_image_counts_and_so_does_that_of_the_new_one(monkeypatch):
    """Scores 0.25, 0.5 and 1 of weights 6, 1 and 2, and a new image of weight 1: 60, 70 and 90 % are reached."""
    monkeypatch.setattr(weighted, "ALPHAS", (0.4, 0.35, 0.3, 0.1, 0.05))
    below = weighted.below(np.array([0.25, 0.5, 1], np.float32).reshape(3, 1, 1))
    found = weighted.thresholds(below, np.array([6.0, 1, 2]), 1.0)
    assert [grid_value(number) for number in found[:4]] == [0.25, 0.5, 0.5, 1]
    assert found[4] == below.shape[1]  # more than all labeled images have

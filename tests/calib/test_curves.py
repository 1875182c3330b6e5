"""Labels at every threshold at once, against labels at each threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_images import block_of, random_image

from calib import class_planes, label_pixels
from calib.curves import candidate_thresholds, curves_of, image_curves, merge_curves
from calib.interface import Block
from calib.planes import TILE
from calib.scores import IGNORE_INDEX

CHOSEN = np.unique(np.concatenate([np.arange(0, 641, 37), np.arange(560, 641)]))


@pytest.mark.parametrize("rule", ["argmax", "paper", "singleton", "no_background"])
@pytest.mark.parametrize(("num_classes", "background"), [(4, 1), (2, 0), (3, None), (5, 4)])
def test_counts_the_labels_of_every_threshold(rule, num_classes, background):
    images = [random_image(np.random.default_rng([seed, num_classes]), num_classes) for seed in range(3)]
    curves = curves_of(rule, background, block_of(images, background))
    for i, (maps, truth) in enumerate(images):
        planes, is_valid = class_planes(maps, background), truth != IGNORE_INDEX
        for t in CHOSEN:
            q = np.full(truth.shape, candidate_thresholds()[t], np.float32)
            label = label_pixels(planes, q, rule, background, "abstain")[is_valid]
            kept = ~np.isnan(label)
            assert curves.kept[i, t] == kept.sum() / is_valid.sum()
            assert curves.wrong[i, t] == (label[kept] != truth[is_valid][kept]).sum() / is_valid.sum()


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(-1, 3), st.sampled_from(["argmax", "paper", "singleton"]))
def test_counts_equal_probabilities_and_scores_at_and_just_above_candidates(seed, num_classes, background, rule):
    rng, background = np.random.default_rng(seed), background if 0 <= background < num_classes else None
    maps = (rng.multinomial(8, np.full(num_classes, 1 / num_classes), 12).T.reshape(-1, 3, 4) / 8).astype(np.float32)
    maps = np.maximum(maps - rng.choice([0, 2**-24], maps.shape), 0, dtype=np.float32)  # just above a candidate
    truth = rng.choice([*range(num_classes), IGNORE_INDEX], (3, 4)).astype(np.uint8)
    truth[0, 0] = 0
    planes, is_valid = class_planes(maps, background), truth != IGNORE_INDEX
    ((kept, wrong),) = image_curves(planes, truth, [rule], background)
    for t in [0, *(np.searchsorted(candidate_thresholds(), np.arange(1, 9) / 8) - rng.integers(2))]:
        q = np.full(truth.shape, candidate_thresholds()[t], np.float32)
        label = label_pixels(planes, q, rule, background, "abstain")[is_valid]
        assert kept[t] == np.mean(~np.isnan(label))
        assert wrong[t] == np.mean(~np.isnan(label) & (label != truth[is_valid]))


def test_an_image_of_several_tiles_has_the_curves_of_its_parts():
    maps, truth = random_image(np.random.default_rng(1), 4)
    large = np.tile(maps, (1, 90, 80)), np.tile(truth, (90, 80))
    assert truth.size * 90 * 80 > 6 * TILE
    of_both = [image_curves(class_planes(m, 0), t, ["paper", "singleton"], 0) for m, t in ((maps, truth), large)]
    np.testing.assert_array_equal(*of_both)


@pytest.mark.parametrize("background", [None, 0, 3])
def test_rules_that_are_counted_together_have_their_own_curves(background):
    rules = ["argmax", "paper", "singleton"]
    maps, truth = random_image(np.random.default_rng(0), 4)
    together = image_curves(class_planes(maps, background), truth, rules, background)
    for rule, (kept, wrong) in zip(rules, together, strict=True):
        alone = curves_of(rule, background, block_of([(maps, truth)], background))
        np.testing.assert_array_equal((kept, wrong), (alone.kept[0], alone.wrong[0]))
    assert np.isnan(image_curves(class_planes(maps, 0), np.full_like(truth, IGNORE_INDEX), rules, 0)).all()


def test_images_without_a_true_class_are_left_out_and_the_others_keep_their_order():
    images = [random_image(np.random.default_rng(seed), 3) for seed in range(4)]
    images[1][1][:] = IGNORE_INDEX
    block = block_of(images, 0)
    halves = [Block(block.images[i], {name: maps[i] for name, maps in block.maps.items()}) for i in ([2, 3], [0, 1])]
    merged = merge_curves(*(curves_of("argmax", 0, half) for half in halves)).sorted()
    assert merged.images.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(merged.wrong, curves_of("argmax", 0, block).wrong)

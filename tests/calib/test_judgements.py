"""The counts of an image, against a loop over pixels that uses the literal prediction sets."""

import bisect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import GRID, literal_labels, literal_sets

from calib import RULES, Judgement, class_planes, judge_image, true_class_scores
from calib.planes import TILE

THRESHOLDS = np.float32([-1, 0, 0.3, 0.5, 0.7, 1])


def judge(probabilities, truth, thresholds, background, uncalibrated):
    return judge_image(
        class_planes(probabilities, background),
        true_class_scores(probabilities, truth),
        truth,
        thresholds,
        RULES,
        len(probabilities),
        background,
        uncalibrated,
        probabilities,
    )


def literal_judgement(probabilities, truth, thresholds, background, uncalibrated):
    """Count pixel by pixel: a class without a finite threshold counts as covered, a pixel without one holds all."""
    num_classes = len(probabilities)
    num_alphas, num_rules = len(thresholds), len(RULES)
    valid = np.zeros(num_classes, dtype=int)
    covered, kept, right = (
        np.zeros((num_alphas, *shape), dtype=int) for shape in [(num_classes,), *[(num_rules, num_classes)] * 2]
    )
    labeled = np.zeros((num_alphas, num_rules), dtype=int)
    uncalibrated_pixels, sizes = np.zeros(num_alphas, dtype=int), np.zeros((num_alphas, 3), dtype=int)
    pixels = [(a, b) for a, b in np.ndindex(truth.shape) if truth[a, b] != 255]
    for a, b in pixels:
        valid[truth[a, b]] += 1
    for i, q_hat in enumerate(thresholds):
        sets = literal_sets(probabilities, q_hat, uncalibrated)
        for a, b in pixels:
            q_of_classes, true = np.broadcast_to(q_hat, probabilities.shape)[:, a, b], truth[a, b]
            is_open = not np.isfinite(q_of_classes[true])
            covered[i, true] += is_open or true in sets[a, b]
            uncalibrated_pixels[i] += is_open
            sizes[i, min(2, len(sets[a, b]) if np.isfinite(q_of_classes).any() else num_classes)] += 1
        for r, rule in enumerate(RULES):
            label = literal_labels(probabilities, q_hat, background, rule, uncalibrated)
            labeled[i, r] = np.sum(~np.isnan(label))
            for a, b in pixels:
                if not np.isnan(label[a, b]):
                    kept[i, r, int(label[a, b])] += 1
                    right[i, r, truth[a, b]] += label[a, b] == truth[a, b]
    raw_kept, raw_right, confidence = (np.zeros(shape, dtype=int) for shape in (num_classes, num_classes, (641, 2)))
    for a, b in pixels:
        best = max(range(num_classes), key=lambda j: (probabilities[j, a, b], -j))
        is_right = best == truth[a, b]
        raw_kept[best] += 1
        raw_right[best] += is_right
        confidence[literal_confidence_bin(1 - probabilities[best, a, b])] += 1, is_right
    return Judgement(valid, covered, uncalibrated_pixels, sizes, kept, right, raw_kept, raw_right, confidence, labeled)


def literal_confidence_bin(score):
    """32 bins an octave of 1 - P from 2^-20 to 1; the grid of thresholds has 1024 steps an octave, rounded up."""
    step = bisect.bisect_left(GRID, float(score))
    return step // 32


@st.composite
def judged_images(draw, class_wise):
    num_classes = draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = num_classes, draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = np.float32([0, 0.1, 0.3, 0.5, 0.7, 1])
    probabilities = rng.choice(values, size=shape) if draw(st.booleans()) else rng.random(shape, np.float32)
    truth = rng.integers(0, num_classes, size=shape[1:]).astype(np.uint8)
    truth[rng.random(truth.shape) < draw(st.sampled_from([0, 0.3, 1]))] = 255
    thresholds = []
    for _ in range(draw(st.integers(1, 3))):
        q_hat = rng.choice(THRESHOLDS, size=shape if class_wise else shape[1:])
        own = rng.random(q_hat.shape) < 0.3
        q_hat = np.where(own, 1 - probabilities if class_wise else 1 - probabilities.max(axis=0), q_hat)
        q_hat[..., rng.random(shape[1:]) < 0.15] = np.nan
        q_hat[..., rng.random(shape[1:]) < 0.15] = np.inf
        thresholds.append(q_hat)
    return probabilities, truth, thresholds, draw(st.sampled_from([None, 0, num_classes - 1]))


UNCALIBRATED = st.sampled_from(["abstain", "accept"])


def assert_counts_agree(image, uncalibrated, fields=Judgement._fields):
    judgement, expected = judge(*image, uncalibrated), literal_judgement(*image, uncalibrated)
    for field in fields:
        np.testing.assert_array_equal(getattr(judgement, field), getattr(expected, field), err_msg=field)
        assert getattr(judgement, field).dtype == np.int32


@given(judged_images(class_wise=False), UNCALIBRATED)
def test_agrees_with_a_loop_over_pixels(image, uncalibrated):
    assert_counts_agree(image, uncalibrated)


@given(judged_images(class_wise=True), UNCALIBRATED)
def test_class_wise_agrees_with_a_loop_over_pixels(image, uncalibrated):
    assert_counts_agree(image, uncalibrated)


@settings(max_examples=50, deadline=None)
@given(judged_images(class_wise=True), st.integers(0, 2**32), UNCALIBRATED)
def test_a_class_without_a_finite_threshold_beside_others_counts_as_covered(image, seed, uncalibrated):
    rng = np.random.default_rng(seed)
    for q_hat in image[2]:
        q_hat[rng.random(q_hat.shape) < 0.2] = np.nan
        q_hat[rng.random(q_hat.shape) < 0.2] = np.inf
    assert_counts_agree(image, uncalibrated, ("valid", "covered", "uncalibrated", "kept", "right"))


@settings(max_examples=50, deadline=None)
@given(judged_images(class_wise=False), UNCALIBRATED)
def test_one_threshold_for_all_classes_is_equal_thresholds_of_all(image, uncalibrated):
    probabilities, truth, thresholds, background = image
    each = [np.broadcast_to(q_hat, probabilities.shape) for q_hat in thresholds]
    pairs = zip(judge(*image, uncalibrated), judge(probabilities, truth, each, background, uncalibrated), strict=True)
    for one, of_each in pairs:
        np.testing.assert_array_equal(of_each, one)


@settings(max_examples=50, deadline=None)
@given(judged_images(class_wise=False), UNCALIBRATED)
def test_alphas_and_rules_that_are_judged_together_have_their_own_counts(image, uncalibrated):
    probabilities, truth, thresholds, background = image
    others = [np.full_like(thresholds[0], q) for q in (0.4, np.inf)]
    together = judge(probabilities, truth, [*others, *thresholds], background, uncalibrated)
    chosen = [list(RULES).index(rule) for rule in ("singleton", "paper")]
    own = judge(*image, uncalibrated)
    whole = own._replace(**{name: getattr(own, name)[:, chosen] for name in ("kept", "right", "labeled")})
    for counts, expected in zip(together.some(slice(2, 2 + len(thresholds)), chosen), whole, strict=True):
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("rows", [1, 3, 10])
@pytest.mark.parametrize("class_wise", [False, True])
def test_counts_of_bands_add_up_to_those_of_the_image(rows, class_wise):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=(10, 9)).transpose(2, 0, 1).astype(np.float32)
    truth = rng.choice(np.uint8([0, 1, 2, 255]), size=(10, 9))
    q_hat = rng.choice(np.float32([0.3, 0.6, 0.9, np.inf]), size=probabilities.shape if class_wise else truth.shape)
    whole = judge(probabilities, truth, [q_hat], 0, "abstain")
    bands = [slice(top, top + rows) for top in range(0, 10, rows)]
    judgements = [judge(probabilities[:, band], truth[band], [q_hat[..., band, :]], 0, "abstain") for band in bands]
    for added, expected in zip(map(sum, zip(*judgements, strict=True)), whole, strict=True):
        np.testing.assert_array_equal(added, expected)


@pytest.mark.parametrize("uncalibrated", ["abstain", "accept"])
@pytest.mark.parametrize("class_wise", [False, True])
def test_a_threshold_of_the_whole_map_is_that_of_every_pixel(class_wise, uncalibrated):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=(6, 7)).transpose(2, 0, 1).astype(np.float32)
    truth = rng.choice(np.uint8([0, 1, 2, 255]), size=(6, 7))
    values = np.float32([[0.3, 0.6, 0.9], [0.6, np.inf, np.nan], [np.inf] * 3, [np.nan] * 3])
    of_map = list(values[..., np.newaxis, np.newaxis]) if class_wise else list(values[:, 1:2, np.newaxis])
    of_pixels = [np.array(np.broadcast_to(q, (*q.shape[:-2], 6, 7))) for q in of_map]
    pairs = zip(*(judge(probabilities, truth, q, 0, uncalibrated) for q in (of_map, of_pixels)), strict=True)
    for counts, expected in pairs:
        np.testing.assert_array_equal(counts, expected)


def test_an_image_of_several_tiles_has_the_counts_of_all_its_parts():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=(5, 6)).transpose(2, 0, 1).astype(np.float32)
    truth, q_hat = rng.choice(np.uint8([0, 1, 2, 255]), (5, 6)), rng.choice(np.float32([0.3, 0.6, np.inf]), (5, 6))
    parts = 90, 80
    assert truth.size * 90 * 80 > 6 * TILE
    large = judge(np.tile(probabilities, (1, *parts)), np.tile(truth, parts), [np.tile(q_hat, parts)], 0, "abstain")
    for counts, expected in zip(large, judge(probabilities, truth, [q_hat], 0, "abstain"), strict=True):
        np.testing.assert_array_equal(counts, 90 * 80 * expected)


def test_a_pixel_of_each_kind_can_be_judged_by_hand():
    """P = 0.6, 0.3, 0.1: at 0.75 the set is {0, 1}, at 0.5 {0}, at 0.3 {}; Eq. 4 calls {0, 1} class 1."""
    probabilities = np.tile(np.float32([0.6, 0.3, 0.1]).reshape(3, 1, 1), (1, 1, 4))
    truth = np.uint8([[0, 1, 2, 255]])
    thresholds = [np.full((1, 4), q, dtype=np.float32) for q in (0.75, 0.5, 0.3)]
    judgement = judge(probabilities, truth, thresholds, 0, "abstain")
    assert judgement.valid.tolist() == [1, 1, 1]
    assert judgement.covered.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert judgement.sizes.tolist() == [[0, 0, 3], [0, 3, 0], [3, 0, 0]]
    assert dict(zip(RULES, judgement.kept[0].tolist(), strict=True)) == {
        "paper": [0, 3, 0],
        "no_background": [3, 0, 0],
        "argmax": [3, 0, 0],
        "singleton": [0, 0, 0],
        "raw": [3, 0, 0],
    }
    assert judgement.right[0].tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert judgement.kept[1].tolist() == [[3, 0, 0]] * 5
    assert judgement.kept[2].tolist() == [[0, 0, 0]] * 4 + [[3, 0, 0]]
    assert (judgement.raw_kept.tolist(), judgement.raw_right.tolist()) == ([3, 0, 0], [1, 0, 0])
    assert judgement.confidence.sum(axis=0).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("q_hat", "policy", "size"), [((0.1, np.inf, 0.1), "abstain", 1), ((np.inf, np.nan, np.nan), "accept", 2)]
)
def test_a_set_that_covers_because_no_threshold_exists_is_not_counted_as_empty(q_hat, policy, size):
    """Class 1 is the truth; it has no finite threshold, so it is in the set, whatever the labels do."""
    maps = np.float32([0.5, 0.3, 0.2]).reshape(3, 1, 1)
    thresholds = np.float32(q_hat).reshape(3, 1, 1)
    truth = np.uint8([[1]])
    score = true_class_scores(maps, truth)
    judgement = judge_image(class_planes(maps, 0), score, truth, [thresholds], ["paper"], 3, 0, policy, maps)
    assert judgement.covered.tolist() == [[0, 1, 0]]
    assert judgement.sizes[0, size] == 1

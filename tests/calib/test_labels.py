"""Planes and Eq. 4: pixels that can be labeled by hand, and the literal prediction sets of random small maps."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import literal_labels, literal_q_hat, literal_sets

from calib import (
    RULES,
    Planes,
    class_planes,
    label_pixels,
    most_probable,
    pixel_quantile,
    set_sizes,
    stack_planes,
    summarise_labels,
)

NAN = np.nan


def pixels(*rows):
    """Probability map of a row of pixels, from the class probabilities of each: float32 [K, 1, W]."""
    return np.array(rows, dtype=np.float32).T[:, np.newaxis, :]


def labels_of(probabilities, q_hat, rule="paper", background=0, uncalibrated="abstain"):
    q_hat = np.broadcast_to(np.float32(q_hat), probabilities.shape[1:])
    return label_pixels(class_planes(probabilities, background), q_hat, rule, background, uncalibrated)


EXAMPLES = pixels(
    [0.60, 0.30, 0.10],  # sets at q = 0.75: {0, 1}
    [0.80, 0.15, 0.05],  # {0}
    [0.24, 0.23, 0.22],  # {}
    [0.10, 0.30, 0.60],  # {1, 2}
    [0.10, 0.10, 0.80],  # {2}
)


@pytest.mark.parametrize(
    ("rule", "background", "expected"),
    [
        ("paper", 0, [1, 0, NAN, 2, 2]),
        ("paper", None, [0, 0, NAN, 2, 2]),
        ("paper", 2, [0, 0, NAN, 1, 2]),
        ("no_background", 0, [0, 0, NAN, 2, 2]),
        ("no_background", 2, [0, 0, NAN, 2, 2]),
        ("no_background", None, [0, 0, NAN, 2, 2]),
        ("argmax", 0, [0, 0, NAN, 2, 2]),
        ("argmax", None, [0, 0, NAN, 2, 2]),
        ("singleton", 0, [NAN, 0, NAN, NAN, 2]),
        ("singleton", None, [NAN, 0, NAN, NAN, 2]),
        ("raw", 0, [0, 0, 0, 2, 2]),
        ("raw", None, [0, 0, 0, 2, 2]),
        ("raw", 2, [0, 0, 0, 2, 2]),
    ],
)
def test_labels_by_the_rule(rule, background, expected):
    label = labels_of(EXAMPLES, 0.75, rule, background)
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, np.float32([expected]))


THRESHOLD_RULES = [rule for rule in RULES if rule != "raw"]


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_abstains_where_the_location_has_no_threshold(rule):
    assert np.isnan(labels_of(EXAMPLES, NAN, rule, uncalibrated="accept")).all()


def test_an_uncalibrated_location_abstains_or_takes_every_class_into_the_set():
    assert np.isnan(labels_of(EXAMPLES, np.inf, uncalibrated="abstain")).all()
    assert labels_of(EXAMPLES, np.inf, "paper", uncalibrated="accept").tolist() == [[1, 1, 1, 2, 2]]
    assert labels_of(EXAMPLES, np.inf, "no_background", uncalibrated="accept").tolist() == [[0, 0, 0, 2, 2]]
    assert labels_of(EXAMPLES, np.inf, "argmax", uncalibrated="accept").tolist() == [[0, 0, 0, 2, 2]]
    assert np.isnan(labels_of(EXAMPLES, np.inf, "singleton", uncalibrated="accept")).all()


def test_compares_as_the_scores_were_computed():
    """A pixel whose score equals the threshold is in, although 1 - q rounds to more than its probability."""
    p = np.float32(0.1)
    assert p < np.float32(1) - (np.float32(1) - p)
    assert labels_of(pixels([0.0, p]), np.float32(1) - p).item() == 1


def test_of_equals_the_lowest_index_wins():
    ties = pixels([0.4, 0.3, 0.3], [0.4, 0.4, 0.2])
    assert labels_of(ties, 0.9, "paper").tolist() == [[1, 1]]
    assert labels_of(ties, 0.9, "argmax").tolist() == [[0, 0]]
    assert labels_of(ties, 0.9, "argmax", background=1).tolist() == [[0, 0]]


def test_orders_small_probabilities_for_which_one_minus_p_rounds_to_1():
    assert labels_of(pixels([1.0, 1e-9, 2e-9]), 1.0).item() == 2


@pytest.mark.parametrize("background", [0, 1])
def test_a_single_foreground_class_has_no_runner_up_even_at_threshold_1(background):
    foreground = 1 - background
    probabilities = np.zeros((2, 1, 1), dtype=np.float32)
    probabilities[foreground] = 1
    planes = class_planes(probabilities, background)
    assert np.isnan(planes.p_second).all()
    assert labels_of(probabilities, 0.9, "singleton", background).item() == foreground
    assert labels_of(probabilities[[0]], 1.0, "singleton", None).item() == 0


def test_planes_hold_the_two_best_foreground_classes():
    planes = class_planes(EXAMPLES, background=0)
    assert planes.best_foreground.tolist() == [[1, 1, 1, 2, 2]]
    np.testing.assert_array_equal(planes.p_foreground, np.float32([[0.3, 0.15, 0.23, 0.6, 0.8]]))
    np.testing.assert_array_equal(planes.p_second, np.float32([[0.1, 0.05, 0.22, 0.3, 0.1]]))
    np.testing.assert_array_equal(planes.p_background, EXAMPLES[0])
    assert class_planes(EXAMPLES, background=None).p_background is None


@pytest.mark.parametrize("background", [None, 0, 6, 20])
def test_planes_agree_with_sorting_beyond_one_tile(background):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(21, 0.2), size=(130, 140)).transpose(2, 0, 1).astype(np.float32)
    planes = class_planes(probabilities, background)
    foreground = [k for k in range(21) if k != background]
    ordered = np.sort(probabilities[foreground], axis=0)
    np.testing.assert_array_equal(planes.best_foreground, np.take(foreground, probabilities[foreground].argmax(axis=0)))
    np.testing.assert_array_equal(planes.p_foreground, ordered[-1])
    np.testing.assert_array_equal(planes.p_second, ordered[-2])
    assert [plane.dtype for plane in planes[:3]] == [np.uint8, np.float32, np.float32]


@pytest.mark.parametrize("class_index", [0, 1, 2])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_probability_of_any_class_is_an_error(class_index, broken):
    probabilities = EXAMPLES.copy()
    probabilities[class_index, 0, 3] = broken
    with pytest.raises(ValueError, match="NaN or infinite at 1 of 5 pixels"):
        class_planes(probabilities, background=0)


@st.composite
def target_images(draw):
    """A small probability map and a background index or None: ties, tiny and saturated probabilities, or smooth."""
    num_classes = draw(st.integers(1, 5))
    backgrounds = st.none() if num_classes == 1 else st.none() | st.integers(0, num_classes - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = num_classes, draw(st.integers(1, 4)), draw(st.integers(1, 4))
    nearly_half = np.nextafter(np.float32(0.5), np.float32(1))
    values = np.float32([0, 1e-9, 2e-9, 0.1, 0.3, 0.5, nearly_half, 0.7, 1])
    return rng.choice(values, size=shape) if draw(st.booleans()) else rng.random(shape, np.float32), draw(backgrounds)


ANY_RULE = st.sampled_from(list(RULES))
UNCALIBRATED = st.sampled_from(["abstain", "accept"])


@given(target_images(), ANY_RULE, UNCALIBRATED, st.data())
def test_agrees_with_the_literal_prediction_sets(image, rule, uncalibrated, data):
    probabilities, background = image
    thresholds = [NAN, -1, 0, 0.3, 0.5, 0.7, 1, np.inf, *(np.float32(1) - probabilities.ravel()[:4])]
    size = probabilities[0].size
    drawn = data.draw(st.lists(st.sampled_from(thresholds), min_size=size, max_size=size))
    q_hat = np.float32(drawn).reshape(probabilities.shape[1:])
    label = labels_of(probabilities, q_hat, rule, background, uncalibrated)
    np.testing.assert_array_equal(label, literal_labels(probabilities, q_hat, background, rule, uncalibrated))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), ANY_RULE, UNCALIBRATED, st.sampled_from([None, 0, 1, 2]))
def test_agrees_with_equations_3_and_4_taken_literally(seed, rule, uncalibrated, background):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.dirichlet(np.ones(3), size=(10, 3, 3)), 1).transpose(0, 3, 1, 2).astype(np.float32)
    masks = rng.choice(np.uint8([0, 1, 2, 255]), size=(9, 3, 3))
    masks[:, 0, 0] = 255
    labeled, target = probabilities[:9], probabilities[9]
    scores = np.fmax.reduce(np.where(masks[:, None] == np.arange(3)[:, None, None], 1 - labeled, NAN), axis=1)
    label = labels_of(target, pixel_quantile(scores, 0.2), rule, background, uncalibrated)
    q_hat = literal_q_hat(labeled, masks, 0.2, "exact")
    np.testing.assert_array_equal(label, literal_labels(target, q_hat, background, rule, uncalibrated))
    assert np.isnan(label[0, 0]) == (rule != "raw")


@pytest.mark.parametrize("rule", ["paper", "no_background", "argmax"])
def test_a_larger_alpha_never_labels_more_pixels(rule):
    rng = np.random.default_rng(0)
    scores = rng.random((30, 20, 20), dtype=np.float32)
    probabilities = rng.dirichlet(np.ones(4), size=(20, 20)).transpose(2, 0, 1).astype(np.float32)
    q_hats = [pixel_quantile(scores, alpha) for alpha in (0.01, 0.05, 0.1, 0.3, 0.6)]
    kept = [~np.isnan(labels_of(probabilities, q_hat, rule, uncalibrated="accept")) for q_hat in q_hats]
    assert all((larger <= smaller).all() for smaller, larger in pairwise(kept))
    assert kept[0].all()
    assert 0 < kept[-1].sum() < kept[0].sum()


def test_a_larger_alpha_may_label_more_singletons():
    """A lower threshold empties some sets, and leaves one class in others: here first two, then one, then none."""
    labels = [labels_of(pixels([0.6, 0.4]), q_hat, "singleton").item() for q_hat in (0.7, 0.5, 0.3)]
    np.testing.assert_array_equal(labels, [NAN, 0, NAN])


@settings(max_examples=60, deadline=None)
@given(target_images(), st.sampled_from([NAN, -1, 0, 0.3, 0.5, 0.7, 1, np.inf]))
def test_set_sizes_agree_with_the_literal_prediction_sets(image, threshold):
    probabilities, background = image
    q_hat = np.full(probabilities.shape[1:], threshold, dtype=np.float32)
    sizes = set_sizes(class_planes(probabilities, background), q_hat)
    assert sizes.dtype == np.uint8
    assert {where: min(len(members), 2) for where, members in literal_sets(probabilities, q_hat, "accept").items()} == {
        where: sizes[where] for where in np.ndindex(sizes.shape)
    }


@settings(max_examples=60, deadline=None)
@given(target_images())
def test_the_most_probable_class_is_argmax_over_all_classes(image):
    probabilities, background = image
    best, probability = most_probable(class_planes(probabilities, background), background)
    assert (best.dtype, probability.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(best, probabilities.argmax(axis=0))
    np.testing.assert_array_equal(probability, probabilities.max(axis=0))


def test_summary_counts_the_outcomes_of_the_pixels():
    probabilities = np.concatenate([EXAMPLES, EXAMPLES[:, :, :3]], axis=2)
    q_hat = np.float32([[0.75] * 5 + [np.inf, NAN, 0.75]])
    planes = class_planes(probabilities, background=0)
    label = label_pixels(planes, q_hat, "paper", 0, "abstain")
    counts = summarise_labels(planes, q_hat, label, background=0)
    assert counts._asdict() == {
        "pixels": 8,
        "kept": 4,
        "empty": 2,
        "background_only": 1,
        "background_overruled": 1,
        "uncalibrated": 2,
    }
    accepted = label_pixels(planes, q_hat, "paper", 0, "accept")
    assert summarise_labels(planes, q_hat, accepted, background=0)[1::3] == (5, 2)
    assert all(type(count) is int for count in counts)


def test_summary_without_a_background_class_has_nothing_to_overrule():
    planes = class_planes(EXAMPLES, background=None)
    q_hat = np.full((1, 5), 0.75, dtype=np.float32)
    counts = summarise_labels(planes, q_hat, label_pixels(planes, q_hat, "paper", None, "abstain"), None)
    assert counts == (5, 4, 1, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(target_images(), ANY_RULE, st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, np.inf, NAN]))
def test_summary_agrees_with_the_literal_prediction_sets(image, rule, threshold):
    probabilities, background = image
    planes = class_planes(probabilities, background)
    q_hat = np.full(probabilities.shape[1:], threshold, dtype=np.float32)
    label = label_pixels(planes, q_hat, rule, background, "accept")
    counts = summarise_labels(planes, q_hat, label, background)
    sets = literal_sets(probabilities, q_hat, "accept").values()
    finite = np.isfinite(threshold)
    assert counts.pixels == len(sets)
    assert counts.empty == (sum(not members for members in sets) if finite else 0)
    assert counts.background_only == (sum(members == [background] for members in sets) if finite else 0)
    assert counts.uncalibrated == (0 if finite else len(sets))
    overruled = ~np.isnan(label) & (label != probabilities.argmax(axis=0))
    assert counts.background_overruled == overruled.sum()


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
@pytest.mark.parametrize("background", [None, 3])
def test_planes_from_a_store_relabel_at_any_alpha_like_the_probabilities(rule, background):
    """Copies of the planes give the same labels at 20 alphas as the probabilities do."""
    rng = np.random.default_rng(0)
    scores = rng.random((60, 9, 9), dtype=np.float32) ** 2
    scores[rng.random(scores.shape) < 0.3] = NAN
    probabilities = rng.dirichlet(np.full(5, 0.3), size=(9, 9)).transpose(2, 0, 1).astype(np.float32)
    fresh = class_planes(probabilities, background)
    read = Planes(*(p if p is None else np.frombuffer(p.tobytes(), p.dtype).reshape(p.shape) for p in fresh))
    different = set()
    for alpha in np.linspace(0.01, 0.96, 20).round(4).tolist():
        q_hat = pixel_quantile(scores, alpha)
        label = label_pixels(read, q_hat, rule, background, "accept")
        np.testing.assert_array_equal(label, literal_labels(probabilities, q_hat, background, rule, "accept"))
        different.add(label.tobytes())
    assert len(different) > 10


@pytest.mark.parametrize("background", [None, 0])
def test_strips_of_planes_stack_up_to_the_planes_of_the_map(background):
    probabilities = np.random.default_rng(0).random((4, 9, 5), dtype=np.float32)
    strips = [class_planes(probabilities[:, top : top + 2], background) for top in range(0, 9, 2)]
    for stacked, plane in zip(stack_planes(strips), class_planes(probabilities, background), strict=True):
        np.testing.assert_array_equal(stacked, plane)
        assert stacked is None or stacked.dtype == plane.dtype

"""Levels and counts of the slider: what they say of every stop is what the rules of the method say there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from odd_rule import odd_labels

import calib
from calib.labels import set_codes
from pipeline.gallery.numbers import (
    assert_levels_exist,
    chosen_images,
    count_by_class,
    count_by_truth,
    count_right,
    count_sets,
    first_stops,
    stop_levels,
    tally,
    tally_labels,
)

NAN, INF = float("nan"), float("inf")
SHAPE, STOPS, CLASSES = (3, 4), 5, 4
RULES = list(calib.RULES)


def float32(*rows):
    return np.array(rows, np.float32)


@st.composite
def sliders(draw):
    """Probability maps and thresholds on a coarse grid, so that they tie; locations that are uncalibrated or empty."""
    eighths = st.integers(0, 8).map(lambda i: i / 8)
    maps = draw(arrays.arrays(np.float32, (CLASSES, *SHAPE), elements=eighths))
    q = draw(arrays.arrays(np.float32, (STOPS, *SHAPE), elements=st.one_of(eighths, st.just(INF), st.just(-1.0))))
    q = -np.sort(-q, axis=0)
    q[:, draw(arrays.arrays(np.bool_, SHAPE))] = NAN
    return maps, q, draw(st.sampled_from([None, 0, 2, CLASSES - 1])), draw(st.sampled_from(["abstain", "accept"]))


@settings(deadline=None)
@given(slider=sliders())
def test_every_pixel_is_counted_by_the_classes_in_its_set_at_every_stop(slider):
    maps, q, background, policy = slider
    planes = calib.class_planes(maps, background)
    levels = stop_levels(planes, q, background)
    pixel = np.arange(levels.best.size).reshape(SHAPE)
    counted = count_sets(levels, first_stops(q, policy), pixel, pixel.size, STOPS)
    thresholds = np.where(np.isposinf(q), np.float32(NAN), q) if policy == "abstain" else q
    codes = np.stack([set_codes(planes, threshold) for threshold in thresholds], axis=-1).reshape(-1, 1, STOPS)
    np.testing.assert_array_equal(counted, codes == np.arange(8)[:, np.newaxis])


@settings(deadline=None)
@given(slider=sliders(), rule=st.sampled_from(RULES), truth=arrays.arrays(np.uint8, SHAPE, elements=st.integers(0, 4)))
def test_counts_are_those_of_the_labels_at_every_stop(slider, rule, truth):
    maps, q, background, policy = slider
    truth[truth == CLASSES] = 255
    planes = calib.class_planes(maps, background)
    levels, first = stop_levels(planes, q, background), first_stops(q, policy)
    raw = maps.argmax(axis=0).astype(np.uint8)
    labels = np.stack([calib.label_pixels(planes, threshold, rule, background, policy) for threshold in q])
    counted = tally(count_by_class(levels, first, CLASSES, STOPS), rule, background)
    naive = tally_labels(labels, raw, CLASSES)
    for name in counted._fields:
        np.testing.assert_array_equal(getattr(counted, name), getattr(naive, name), err_msg=name)
    kept = [np.count_nonzero(~np.isnan(label) & (truth != 255)) for label in labels]
    right = [np.count_nonzero(label == truth) for label in labels]
    by_truth = count_by_truth(levels, first, truth, STOPS, background)
    assert count_right(by_truth, rule).tolist() == [kept, right]


@pytest.mark.parametrize("background", [None, 0, 2])
@pytest.mark.parametrize("policy", ["abstain", "accept"])
def test_one_more_rule_is_counted_at_every_stop(odd_rule, background, policy):
    rng = np.random.default_rng(4)
    maps, q = rng.integers(0, 9, (CLASSES, 20, 20)) / 8, -np.sort(-rng.integers(-1, 10, (STOPS, 20, 20)), axis=0) / 8
    maps, q = maps.astype(np.float32), np.where(q > 1, np.inf, q).astype(np.float32)
    levels = stop_levels(calib.class_planes(maps, background), q, background)
    counted = tally(count_by_class(levels, first_stops(q, policy), CLASSES, STOPS), odd_rule, background)
    labels = np.stack([odd_labels(maps, threshold, background, policy) for threshold in q])
    kept = ~np.isnan(labels)
    assert (kept[:-1].any(axis=0) & ~kept[1:].any(axis=0)).any()
    if background is not None:  # then a pixel can be labeled, then not, then labeled again
        assert (kept[0] & ~kept[1] & kept[2:].any(axis=0)).any()
    for name, expected in tally_labels(labels, maps.argmax(axis=0).astype(np.uint8), CLASSES)._asdict().items():
        np.testing.assert_array_equal(getattr(counted, name), expected, err_msg=name)


def test_a_level_is_the_number_of_stops_that_a_class_stays_for():
    maps = float32([[0.1, 0.5]], [[0.7, 0.3]], [[0.2, 0.2]])  # background, cat, dog: one row of two pixels
    q = float32([[0.9, 0.7]], [[0.5, 0.6]], [[0.2, 0.6]])
    levels = stop_levels(calib.class_planes(maps, 0), q, background=0)
    assert levels.best.tolist() == [[1, 1]]
    assert levels.foreground.tolist() == [[2, 1]]  # 1 - 0.7 passes 0.9 and 0.5; 1 - 0.3 passes 0.7 alone
    assert levels.second.tolist() == [[1, 0]]
    assert levels.background.tolist() == [[1, 3]]
    assert levels.background_wins.tolist() == [[0, 1]]


def test_labels_that_overrule_the_background_are_counted_as_changed():
    maps = float32([[0.6, 0.1]], [[0.4, 0.9]])  # the background wins the first pixel
    q = float32([[0.7, 0.7]], [[0.5, 0.5]], [[0.0, 0.0]])
    levels = stop_levels(calib.class_planes(maps, 0), q, background=0)
    by_class = count_by_class(levels, first_stops(q, "abstain"), 2, 3)
    paper = tally(by_class, "paper", background=0)
    assert paper.changed.tolist() == [1, 0, 0]
    assert paper.by_label.tolist() == [[0, 1, 0], [2, 1, 0]]
    assert paper.by_raw.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert tally(by_class, "argmax", background=0).changed.tolist() == [0, 0, 0]


def test_an_infinite_threshold_delays_the_first_label_unless_it_is_accepted():
    q = float32([[INF, 0.5]], [[INF, 0.5]], [[0.5, 0.5]])
    assert first_stops(q, "abstain").tolist() == [[2, 0]]
    assert first_stops(q, "accept").tolist() == [[0, 0]]


def test_thresholds_that_rise_have_no_levels():
    with pytest.raises(AssertionError, match="rises from stop to stop"):
        assert_levels_exist(float32([[0.2, NAN]], [[0.3, NAN]]))
    with pytest.raises(AssertionError, match="rises from stop to stop"):
        assert_levels_exist(float32([[NAN]], [[0.3]]))
    with pytest.raises(AssertionError, match="256 stops"):
        assert_levels_exist(np.zeros((256, 1, 1), np.float32))
    assert_levels_exist(float32([[INF, NAN]], [[0.3, NAN]], [[0.3, NAN]]))


def test_half_of_the_images_shown_keep_least_and_half_are_evenly_spaced():
    keep = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.9, 0.9, 0.9])
    assert chosen_images(keep, 4) == [0, 1, 3, 5]  # 1 and 3 keep least; of 0, 2, 4, 5, 6, 7 the first and the fourth
    assert chosen_images(keep, 3) == [0, 1, 3]
    assert chosen_images(keep, 1) == [1]
    assert chosen_images(keep, 8) == list(range(8))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 30))
def test_as_many_images_are_shown_as_there_are_or_as_are_wanted(rates, most):
    chosen = chosen_images(np.array(rates), most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(most, len(rates))
    assert int(np.argmin(rates)) in chosen

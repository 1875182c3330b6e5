"""Units of images: folds by hand, the cluster bootstrap against a loop, and what duplicated images do to promises."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_images import block_of, random_image

from calib import (
    ArrayMaps,
    Variant,
    assign_folds,
    bootstrap_weights,
    compare_with_first,
    each_alone,
    evaluation,
    fit,
    judge_image,
    num_units,
    number_units,
    shift,
    summarise,
    sums_of_units,
)
from calib.curves import LabelCurves, curves_of
from calib.planes import class_planes
from calib.precision import gains, is_pilot, log_capital, precise_threshold
from calib.scores import true_class_scores

units_of_images = st.lists(st.integers(0, 8), min_size=2, max_size=40).map(np.array)


def test_units_are_numbered_as_they_appear():
    assert number_units(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]
    assert number_units([]).tolist() == []


def test_images_on_their_own_take_the_folds_in_turn():
    assert assign_folds(each_alone(7), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_largest_units_are_placed_first_each_in_the_emptiest_fold():
    """Units of 1, 3, 2 and 2 images: the 3 go to fold 0, the first 2 to fold 1, the others where there are fewest."""
    units = np.array([0, 1, 1, 1, 2, 2, 3, 3])
    assert assign_folds(units, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert assign_folds(units, 3).tolist() == [1, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_refuses_folds_that_leave_nothing_to_calibrate_or_to_judge(folds):
    with pytest.raises(ValueError, match=rf"folds must be between 2 and the number of units \(3\), got {folds}"):
        assign_folds(np.array([0, 0, 1, 2, 2]), folds)


@settings(max_examples=60, deadline=None)
@given(units_of_images, st.integers(2, 6))
def test_no_unit_is_divided_and_no_fold_is_empty_or_far_larger_than_others(units, folds):
    if num_units(units) < folds:
        return
    fold = assign_folds(units, folds)
    assert all(len(set(fold[units == unit])) == 1 for unit in units)
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= np.bincount(units).max()


@settings(max_examples=30, deadline=None)
@given(units_of_images, st.integers(0, 2**32))
def test_the_bootstrap_is_that_of_a_loop_over_drawn_units(units, seed):
    weights = bootstrap_weights(units, 5, np.random.default_rng(seed))
    names = sorted(set(units))
    drawn = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), size=5)
    for sample, times in enumerate(drawn):
        images = [
            i
            for unit, count in zip(names, times, strict=True)
            for _ in range(count)
            for i in np.flatnonzero(units == unit)
        ]
        assert weights[sample].tolist() == [images.count(i) for i in range(len(units))]


@settings(max_examples=30, deadline=None)
@given(units_of_images, st.integers(0, 2**32))
def test_sums_of_units_are_those_of_a_loop(units, seed):
    values = np.random.default_rng(seed).integers(0, 9, (len(units), 2))
    assert sums_of_units(values, units).tolist() == [
        values[units == unit].sum(axis=0).tolist() for unit in sorted(set(units))
    ]


def judgements_of(seeds):
    """One judgement per seed; equal seeds give equal images."""
    judged = []
    for seed in seeds:
        maps, truth = random_image(np.random.default_rng(seed), 3)
        score = true_class_scores(maps, truth)
        thresholds = [np.full(truth.shape, 0.6, np.float32)]
        judged.append(judge_image(class_planes(maps, 0), score, truth, thresholds, ("argmax",), 3, 0, "abstain"))
    return judged


def test_copies_in_one_unit_change_no_interval_and_copies_on_their_own_make_it_narrower():
    once, twice = judgements_of(range(12)), judgements_of(np.repeat(range(12), 4))
    alone, together, apart = (
        summarise(judged, np.random.default_rng(0), units)
        for judged, units in ((once, None), (twice, np.repeat(np.arange(12), 4)), (twice, None))
    )
    for name in ("coverage", "precision", "keep_rate", "miou"):
        for end in ("value", "low", "high"):
            assert getattr(getattr(together, name), end) == pytest.approx(getattr(getattr(alone, name), end))
    assert together.miou_is_larger == pytest.approx(alone.miou_is_larger)
    width = [float((of.keep_rate.high - of.keep_rate.low).item()) for of in (together, apart)]
    assert width[1] == pytest.approx(width[0] / 2, rel=0.2)  # four copies count as four images


def hit_rates(num_groups, size, draws, rng):
    """How often intervals over groups, and over images, contain the truth, if the images of a group are equal."""
    hits = np.zeros(2)
    for _ in range(draws):
        right = np.repeat(rng.binomial(100, rng.beta(8, 2, num_groups)), size)[:, np.newaxis]
        for which, units in enumerate((np.repeat(np.arange(num_groups), size), None)):
            of, _ = compare_with_first(right, np.full_like(right, 100), rng, units)
            hits[which] += of.low.item() <= 0.8 <= of.high.item()
    return hits / draws


def test_intervals_over_groups_are_right_where_those_over_duplicated_images_are_too_narrow(monkeypatch):
    monkeypatch.setattr(evaluation, "NUM_RESAMPLES", 300)
    over_groups, over_images = hit_rates(num_groups=25, size=4, draws=200, rng=np.random.default_rng(0))
    error = 3 * math.sqrt(0.05 * 0.95 / 200)
    assert over_groups >= 0.93 - error  # that of the percentile bootstrap with 25 observations is near 93 %
    assert over_images < 0.7


def test_the_gain_of_a_unit_is_the_mean_of_its_images_by_hand():
    """Two images with gains 0.1 x 1 - 0.5 and 0.1 x 0.5 - 0, and one on its own, whose gain stays its own."""
    curves = LabelCurves(np.array([2, 0, 1]), np.array([[1.0], [1.0], [0.5]]), np.array([[0.2], [0.5], [0.0]]))
    of_units = curves.by_unit(np.array([0, 0, 1]))
    assert of_units.images.tolist() == [0, 2]
    assert gains(of_units, 0.1).ravel() == pytest.approx([(-0.4 + 0.05) / 2, -0.1])
    alone = curves.by_unit(each_alone(3))
    assert [values.tolist() for values in alone] == [values.tolist() for values in curves.sorted()]


def test_guaranteed_thresholds_count_units_and_copies_in_one_unit_change_nothing():
    images = [random_image(np.random.default_rng([5, i]), 3) for i in range(12)]
    for maps, truth in images:  # the annotator is right where it is certain
        truth[maps.max(axis=0) > 0.9] = maps.argmax(axis=0)[maps.max(axis=0) > 0.9]
    variant = Variant("precision_paper", (0.4,), background=0, error=0.2)

    def fitted(images, units, folds):
        block = block_of(images, 0)
        maps = ArrayMaps({"score": np.zeros(block.maps["truth"].shape, np.float32), **block.maps}, 7, units)
        return fit(variant, maps, folds), curves_of("paper", 0, block)

    once, curves = fitted(images, None, assign_folds(each_alone(12), 3))
    units = np.repeat(np.arange(12), 3)
    thrice, _ = fitted([one for one in images for _ in range(3)], units, assign_folds(units, 3))
    assert [one.q.item() for one in once] == [one.q.item() for one in thrice]
    assert [one.num_images.item() for one in thrice] == [3 * one.num_images.item() for one in once]
    assert once[0].q.item() == precise_threshold(log_capital(curves, is_pilot(12), 0.4), 0.2) > 0


@pytest.mark.slow
def test_the_guarantee_over_units_fails_as_rarely_as_promised_and_over_their_images_it_does_not():
    """Units of four equal images, at thresholds whose precision is just below the target, over draws of 30 units."""
    alpha, error, draws, num_groups, rng = 0.1, 0.05, 2000, 30, np.random.default_rng(0)
    wrong = rng.beta(0.3, 1.0, (500, 6)) * (rng.random((500, 6)) < 0.7)
    wrong = wrong * (alpha * 1.0001 / wrong.mean(axis=0))
    failures = np.zeros(2)
    for _ in range(draws):
        chosen = np.repeat(rng.integers(0, 500, num_groups), 4)
        curves = LabelCurves(np.arange(len(chosen)), np.ones((len(chosen), 6)), wrong[chosen])
        for which, units in enumerate((np.repeat(np.arange(num_groups), 4), each_alone(len(chosen)))):
            tested = curves.by_unit(units)
            threshold = precise_threshold(log_capital(tested, is_pilot(len(tested.images)), alpha), error)
            failures[which] += threshold > 0
    over_units, over_images = failures / draws
    assert over_units <= error + 3 * math.sqrt(error * (1 - error) / draws)
    assert over_images > 2 * error


def literal_p_value(labeled, unlabeled, units):
    """The fraction of all divisions of the units whose means over images differ at least as much."""
    blocks = [
        values[of == unit] for values, of in ((labeled, units[0]), (unlabeled, units[1])) for unit in sorted(set(of))
    ]
    spread = np.concatenate([labeled, unlabeled]).std()

    def statistic(chosen):
        first = np.concatenate([blocks[b] for b in chosen])
        second = np.concatenate([blocks[b] for b in range(len(blocks)) if b not in chosen])
        return ((first.mean() - second.mean()) / spread) ** 2

    own = statistic(range(len(set(units[0]))))
    divisions = itertools.combinations(range(len(blocks)), len(set(units[0])))
    return np.mean([statistic(chosen) >= own * (1 - 1e-9) for chosen in divisions])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32))
def test_the_shift_test_divides_units(seed):
    rng = np.random.default_rng(seed)
    units = np.array([0, 1, 0, 2]), np.array([0, 0, 0, 1, 2, 2])
    labeled, unlabeled = rng.normal(size=(4, 1)), rng.normal(size=(6, 1))
    expected = literal_p_value(labeled, unlabeled, units)
    error = np.sqrt(expected * (1 - expected) / shift.NUM_DIVISIONS) + 1 / shift.NUM_DIVISIONS
    assert abs(shift.p_value(labeled, unlabeled, rng, units) - expected) <= 5 * error


def test_few_units_can_show_no_shift():
    """Three and three units have 20 divisions, so that one test can reach 5 %, and three tests cannot."""
    assert shift.can_be_shown(3, 3, 1)
    assert not shift.can_be_shown(3, 3, 3)
    assert shift.can_be_shown(4, 5, 3)

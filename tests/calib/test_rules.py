"""The truth tables of the rules, which rules are equal, and that a new rule needs one more entry only."""

import numpy as np
import pytest
from literal import literal_labels
from odd_rule import odd_labels

from calib import (
    RULES,
    UnknownNameError,
    class_planes,
    class_wise_sets,
    distinct_rules,
    find_rule,
    judge_image,
    label_class_wise,
    label_pixels,
    rules_alike,
    true_class_scores,
)

POLICIES = ("abstain", "accept")


def random_image(seed, num_classes=4, shape=(9, 11)):
    """float32 [K, H, W] on a coarse grid, so that probabilities tie, and uint8 [H, W] true classes, 255 = void."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 9, (num_classes, *shape)).astype(np.float32) / 8
    return maps, rng.choice(np.uint8([*range(num_classes), 255]), shape)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("background", [None, 0, 2])
def test_class_wise_labels_are_those_of_the_literal_sets(rule, background):
    for seed in range(5):
        maps, _ = random_image(seed)
        q = np.random.default_rng(seed).choice(np.float32([0, 0.3, 0.6, 1, np.inf, np.nan]), maps.shape)
        for policy in POLICIES:
            sets = class_wise_sets(maps, q, background, policy)
            label = label_class_wise(sets, class_planes(maps, background), rule, background, policy)
            np.testing.assert_array_equal(label, literal_labels(maps, q, background, rule, policy))


def test_rules_that_label_every_pixel_alike_are_found_from_their_tables():
    assert rules_alike("argmax") == rules_alike("no_background") == ("no_background", "argmax")
    assert rules_alike("paper") == ("paper",)
    assert rules_alike("paper", has_background=False) == ("paper", "no_background", "argmax")
    assert rules_alike("singleton", has_background=False) == ("singleton",)
    assert distinct_rules() == ("paper", "argmax", "singleton")


@pytest.mark.parametrize("has_background", [True, False])
def test_rules_are_alike_if_and_only_if_their_labels_are(has_background):
    background = 1 if has_background else None
    maps, _ = random_image(0, shape=(40, 40))
    planes = class_planes(maps, background)
    q = np.random.default_rng(1).integers(0, 9, maps.shape[1:]).astype(np.float32) / 8
    labels = {rule: label_pixels(planes, q, rule, background, "abstain") for rule in RULES}
    for rule in RULES:
        same = [other for other in RULES if np.array_equal(labels[rule], labels[other], equal_nan=True)]
        assert rules_alike(rule, has_background) == tuple(same)


def test_rules_that_can_leave_the_classes_of_a_set_unlabeled_name_those_pixels():
    assert [rule.name for rule in RULES.values() if rule.can_leave_classes(is_class_wise=False)] == ["singleton"]
    assert [rule.name for rule in RULES.values() if rule.can_leave_classes(is_class_wise=True)] == [
        "argmax",
        "singleton",
    ]
    assert [rule.name for rule in RULES.values() if rule.unlabeled] == ["argmax", "singleton"]


def test_an_unknown_rule_is_one_error_wherever_it_is_used():
    maps, truth = random_image(0)
    planes, q = class_planes(maps, 0), np.zeros(truth.shape, np.float32)
    sets = class_wise_sets(maps, np.zeros_like(maps), 0, "abstain")
    score = true_class_scores(maps, truth)
    message = r"unknown rule 'papre', expected one of paper, .*; did you mean paper\?"
    for use in (
        lambda: find_rule("papre"),
        lambda: rules_alike("papre"),
        lambda: label_pixels(planes, q, "papre", 0, "abstain"),
        lambda: label_class_wise(sets, planes, "papre", 0, "abstain"),
        lambda: judge_image(planes, score, truth, [q], ["papre"], 4, 0, "abstain"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            use()


@pytest.mark.parametrize("background", [None, 0, 3])
@pytest.mark.parametrize("is_class_wise", [False, True])
def test_one_more_rule_labels_and_is_judged(odd_rule, background, is_class_wise):
    maps, truth = random_image(3)
    planes, score = class_planes(maps, background), true_class_scores(maps, truth)
    shape = maps.shape if is_class_wise else truth.shape
    q = np.random.default_rng(1).choice(np.float32([0, 0.3, 0.5, 0.8, 1, np.inf]), shape)
    for policy in POLICIES:
        wanted = odd_labels(maps, q, background, policy)
        if is_class_wise:
            label = label_class_wise(class_wise_sets(maps, q, background, policy), planes, odd_rule, background, policy)
        else:
            label = label_pixels(planes, q, odd_rule, background, policy)
        np.testing.assert_array_equal(label, wanted)
        judged = judge_image(planes, score, truth, [q], ["paper", odd_rule], 4, background, policy, maps)
        known = ~np.isnan(wanted) & (truth != 255)
        assert judged.kept[0, 1].tolist() == np.bincount(wanted[known].astype(int), minlength=4).tolist()
        right = wanted[known & (wanted == truth)].astype(int)
        assert judged.right[0, 1].tolist() == np.bincount(right, minlength=4).tolist()
    assert rules_alike(odd_rule) == (odd_rule,)
    assert distinct_rules()[-1] == odd_rule

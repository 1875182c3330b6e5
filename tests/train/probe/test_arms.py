"""Which labels are tried."""

from calib import Candidate
from train.probe.arms import NO_LABELS, RAW, Arm, Labels, arms_of, distinct_candidates


def candidate(variant, alpha, rule):
    return Candidate(variant, alpha, rule, 0.5, 0.9, 0.9)


RANKED = [
    candidate("image", 0.05, "paper"),
    candidate("image", 0.02, "paper"),
    candidate("pixel", 0.1, "raw"),
    candidate("pixel", 0.05, "paper"),
    candidate("pixel", 0.1, "argmax"),
    candidate("image", 0.1, "argmax"),
    candidate("kmeans", 0.2, "singleton"),
]


def test_the_best_labels_of_each_rule_are_tried_in_the_order_of_their_rank():
    assert distinct_candidates(RANKED, 3, has_background=True) == [RANKED[0], RANKED[4], RANKED[6]]
    assert distinct_candidates(RANKED, 2, has_background=True) == [RANKED[0], RANKED[4]]
    assert distinct_candidates(RANKED, 0, has_background=True) == []


def test_further_ones_are_the_best_of_other_variants():
    assert distinct_candidates(RANKED, 9, has_background=True) == [
        *[RANKED[i] for i in (0, 4, 6)],
        *[RANKED[i] for i in (3, 5)],
    ]


def test_without_a_background_all_rules_but_singleton_are_equal():
    assert distinct_candidates(RANKED, 3, has_background=False) == [RANKED[0], RANKED[6], RANKED[3]]


def test_every_kind_of_labels_gets_every_weight():
    labels = Labels("calibrated", "image", 0.05, "paper")
    assert arms_of(RANKED[:1], [1.0, 0.5]) == [
        Arm(NO_LABELS, 0.0),
        Arm(RAW, 1.0),
        Arm(RAW, 0.5),
        Arm(labels, 1.0),
        Arm(labels, 0.5),
    ]

"""Which labels are tried."""

from calib import Candidate
from train.probe.arms import NO_LABELS, RAW, Arm, Labels, arms_of, distinct_candidates

RANKED = [
    Candidate("image", 0.05, "paper", 0.58, 0.9, 0.9),
    Candidate("image", 0.02, "paper", 0.57, 0.9, 0.9),
    Candidate("pixel", 0.1, "raw", 0.56, 0.9, 1.0),
    Candidate("pixel", 0.05, "paper", 0.55, 0.9, 0.9),
    Candidate("pixel", 0.1, "argmax", 0.54, 0.9, 0.9),
    Candidate("image", 0.1, "argmax", 0.53, 0.9, 0.9),
    Candidate("kmeans", 0.2, "singleton", 0.52, 0.9, 0.9),
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


def test_the_same_labels_are_not_tried_twice():
    """An argmax that keeps every pixel is rule raw, and a singleton rule can label as Eq. 4 does."""
    of_raw = Candidate("image", 0.02, "argmax", *RANKED[2][3:])
    of_paper = Candidate("image", 0.05, "singleton", *RANKED[0][3:])
    ranked = [RANKED[0], of_paper, *RANKED[1:3], of_raw, *RANKED[3:]]
    assert distinct_candidates(ranked, 3, has_background=True) == [RANKED[0], RANKED[4], RANKED[6]]


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

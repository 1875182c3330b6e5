"""The choice of labels, from small lists of candidates whose best one can be found by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib import Candidate, choose_most_labels, choose_most_precise, pareto_front, rank


def candidate(alpha, precision, keep_rate, rule="argmax", miou=0.5):
    return Candidate("pixel", alpha, rule, miou, precision, keep_rate)


@pytest.mark.parametrize(
    ("candidates", "expected", "reached"),
    [
        # the target is reached: most labels win, precision above the target does not count
        ([candidate(0.1, 0.9, 0.8), candidate(0.2, 0.99, 0.5), candidate(0.05, 0.85, 1.0)], 0, True),
        ([candidate(0.1, 0.89, 0.8), candidate(0.2, 0.9, 0.1)], 1, True),  # exactly at the target
        ([candidate(0.2, 0.95, 0.8), candidate(0.1, 0.91, 0.8)], 1, True),  # equal keep rate: the smaller alpha
        ([candidate(0.1, 0.95, 0.8, "paper"), candidate(0.1, 0.99, 0.8)], 0, True),  # the same alpha: the first rule
        # it is not reached: the most precise, then most labels, then the smaller alpha, then the first rule
        ([candidate(0.1, 0.8, 0.8), candidate(0.2, 0.85, 0.1)], 1, False),
        ([candidate(0.1, 0.85, 0.1), candidate(0.2, 0.85, 0.2)], 1, False),
        ([candidate(0.2, 0.85, 0.2), candidate(0.1, 0.85, 0.2), candidate(0.1, 0.85, 0.2, "paper")], 1, False),
        # a candidate that labels nothing has no precision
        ([candidate(0.1, float("nan"), 0.0), candidate(0.2, 0.95, 0.1)], 1, True),
        ([candidate(0.1, float("nan"), 0.0), candidate(0.2, 0.1, 0.1)], 1, False),
    ],
)
def test_chooses_the_most_labels_at_the_target_or_else_the_most_precise(candidates, expected, reached):
    chosen, is_reached = choose_most_labels(candidates, target_precision=0.9)
    assert chosen is candidates[expected]
    assert is_reached is reached


def test_refuses_to_choose_among_rules_that_label_nothing():
    with pytest.raises(ValueError, match="no rule labels any pixel at any alpha; raise alpha"):
        choose_most_labels([candidate(0.1, float("nan"), 0.0), candidate(0.2, float("nan"), 0.0)], target_precision=0.9)


@pytest.mark.parametrize(
    ("candidates", "expected", "reached"),
    [
        # the target is reached: the most precise wins, a keep rate above the target does not count
        ([candidate(0.1, 0.9, 0.8), candidate(0.2, 0.99, 0.5), candidate(0.05, 0.85, 1.0)], 1, True),
        ([candidate(0.1, 0.99, 0.49), candidate(0.2, 0.9, 0.5)], 1, True),  # exactly at the target
        ([candidate(0.1, 0.9, 0.6), candidate(0.2, 0.9, 0.7)], 1, True),  # equal precision: more labels
        ([candidate(0.2, 0.9, 0.6), candidate(0.1, 0.9, 0.6)], 1, True),  # equal keep rate: the smaller alpha
        # it is not reached: most labels, then the most precise
        ([candidate(0.1, 0.99, 0.1), candidate(0.2, 0.5, 0.2)], 1, False),
        ([candidate(0.1, 0.5, 0.2), candidate(0.2, 0.6, 0.2)], 1, False),
    ],
)
def test_chooses_the_most_precise_of_enough_labels_or_else_the_most_labels(candidates, expected, reached):
    chosen, is_reached = choose_most_precise(candidates, target_keep_rate=0.5)
    assert chosen is candidates[expected]
    assert is_reached is reached


@given(
    st.lists(
        st.builds(
            candidate,
            st.sampled_from([0.05, 0.1, 0.2]),
            st.sampled_from([0.5, 0.7, 0.9, 1.0]),
            st.sampled_from([0.0, 0.2, 0.5, 0.9]),
            st.sampled_from(["paper", "argmax"]),
        ),
        max_size=12,
    )
)
def test_the_front_has_the_candidates_that_no_other_dominates(candidates):
    def is_dominated(one):
        return any(
            other.keep_rate >= one.keep_rate
            and other.precision >= one.precision
            and (other.keep_rate, other.precision) != (one.keep_rate, one.precision)
            for other in candidates
        )

    front = pareto_front(candidates)
    expected = {(c.keep_rate, c.precision) for c in candidates if c.keep_rate > 0 and not is_dominated(c)}
    assert [(c.keep_rate, c.precision) for c in front] == sorted(expected, reverse=True)
    for point in front:
        equal = [c for c in candidates if (c.keep_rate, c.precision) == (point.keep_rate, point.precision)]
        assert point is next(c for c in equal if c.alpha == min(other.alpha for other in equal))


RANKED = [
    candidate(0.1, 0.9, 0.8, miou=0.7),
    candidate(0.2, 0.97, 0.5, miou=0.6),
    candidate(0.3, 0.99, 0.3, miou=0.4),
    candidate(0.4, 0.5, 0.0, miou=0.9),  # labels nothing
    candidate(0.2, 0.5, 1.0, "raw", miou=0.6),
    candidate(0.1, 0.9, 0.8, "paper", miou=0.6),
]


@pytest.mark.parametrize(
    ("target", "expected", "reached"),
    [
        (None, [0, 4, 5, 1, 2], True),  # by mIoU; among equals rule raw, then the smaller alpha
        (0.95, [1, 2, 0, 5, 4], True),  # those that reach it first, by mIoU; then the most precise
        (0.97, [1, 2, 0, 5, 4], True),
        (0.999, [2, 1, 0, 5, 4], False),
    ],
)
def test_ranks_by_miou_among_those_that_are_precise_enough(target, expected, reached):
    ranked, is_reached = rank(RANKED, target)
    assert [RANKED.index(one) for one in ranked] == expected
    assert is_reached is reached

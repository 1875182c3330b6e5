import numpy as np
import pytest

from train.engine.collapse import collapsed_classes, fractions, is_within_bounds, loss_jumped

LABELED = np.array([0.9, 0.096, 0.004])


def test_fractions_sum_to_one_or_are_unknown():
    assert fractions([3, 1, 0]).tolist() == [0.75, 0.25, 0]
    assert fractions([0, 0]) is None


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([0.9, 0.096, 0.004], [True, True, True]),
        ([0.99, 0.0097, 0.0003], [True, True, True]),  # a tenth of the labeled fraction is just allowed
        ([0.9905, 0.0095, 0], [True, False, True]),  # the rare third class may vanish
        ([0.30, 0.65, 0.05], [True, False, False]),  # more than 50 points above; more than ten times, and above 0.9 %
        ([0.41, 0.58, 0.0085], [True, True, True]),
        ([0.05, 0.55, 0.4], [False, True, False]),
    ],
)
def test_a_fraction_may_differ_tenfold_and_rise_by_half(predicted, expected):
    assert is_within_bounds(np.array(predicted), LABELED).tolist() == expected


def test_a_collapse_is_a_class_that_was_within_its_bounds_before():
    healthy, collapsed = np.array([0.9, 0.1, 0.0]), np.array([1.0, 0.0, 0.0])
    assert collapsed_classes(healthy, collapsed, LABELED) == [1]
    assert collapsed_classes(collapsed, collapsed, LABELED) == []  # not learnt yet
    assert collapsed_classes(collapsed, healthy, LABELED) == []


def test_a_loss_jumps_if_it_is_twice_its_lowest():
    assert not loss_jumped([1.0])
    assert not loss_jumped([1.0, 0.4, 0.79])
    assert loss_jumped([1.0, 0.4, 0.81])

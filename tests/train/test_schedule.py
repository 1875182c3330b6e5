import pytest

from pipeline.settings import Stage2Settings
from train.schedule import poly_lr_factor, unlabeled_weight, warmup_factor


def test_poly_starts_at_one_and_ends_above_zero():
    assert poly_lr_factor(0, 10, 0.9) == 1
    assert poly_lr_factor(5, 10, 1.0) == 0.5
    assert poly_lr_factor(5, 10, 0.9) == pytest.approx(0.5**0.9)
    assert poly_lr_factor(9, 10, 0.9) > 0


def test_a_warm_up_rises_evenly_and_then_changes_nothing():
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup_factor(0, 0) == 1


@pytest.mark.parametrize("schedule", ["exp", "linear", "cosine"])
def test_lambda_runs_from_start_to_end(schedule):
    weights = [unlabeled_weight(schedule, epoch, 5, 0.5, 0.05) for epoch in range(5)]
    assert weights[0] == pytest.approx(0.5)
    assert weights[-1] == pytest.approx(0.05)
    assert weights == sorted(weights, reverse=True)


def test_the_middle_of_each_schedule():
    middle = {s: unlabeled_weight(s, 1, 3, 0.5, 0.05) for s in ("exp", "constant", "linear", "cosine")}
    assert middle == pytest.approx({"exp": (0.5 * 0.05) ** 0.5, "constant": 0.5, "linear": 0.275, "cosine": 0.275})


def test_exponential_decay_falls_by_the_same_factor_every_epoch():
    weights = [unlabeled_weight("exp", epoch, 4, 0.8, 0.1) for epoch in range(4)]
    assert weights == pytest.approx([0.8, 0.4, 0.2, 0.1])


def test_a_single_epoch_has_the_first_lambda():
    assert unlabeled_weight("exp", 0, 1, 0.5, 0.05) == 0.5


def test_an_exponential_schedule_through_zero_is_refused():
    with pytest.raises(ValueError, match="exp needs lambda_start and lambda_end above 0; set lambda_schedule: linear"):
        Stage2Settings(lambda_end=0.0)
    assert Stage2Settings(lambda_schedule="linear", lambda_end=0.0).lambda_end == 0

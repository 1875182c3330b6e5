import pytest

from train.plan import lr_schedule


@pytest.mark.parametrize(
    ("lr_scope", "expected"),
    [
        ("both", [1 - 8 / 20, 1 - 9 / 20]),  # steps 8 and 9 of 20: the warm-up was in Stage I
        ("stage", [0.25 * 1, 0.5 * (1 - 1 / 12)]),  # steps 0 and 1 of 12
    ],
)
def test_the_schedule_warms_up_once_where_it_starts(make_run, lr_scope, expected):
    settings = make_run(train={"lr_scope": lr_scope, "warmup_steps": 4, "power": 1.0})
    in_stage2 = lr_schedule(settings, 8, 12, 0)
    assert [in_stage2(step) for step in range(2)] == pytest.approx(expected)
    assert lr_schedule(settings, 0, 8, 12)(1) == pytest.approx(0.5 * (1 - 1 / (20 if lr_scope == "both" else 8)))

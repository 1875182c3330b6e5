from dataclasses import replace

import pytest

from pipeline.datasets import load_samples
from pipeline.errors import TrainingError
from pipeline.run import Run
from train.plan import labeled_samples, lr_schedule, plan_fingerprint


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


def test_groups_are_held_out_whole_until_there_are_enough_images(make_run):
    settings = make_run({"labeled": 9, "unlabeled": 2, "val": 1}, train={"holdout": 4})
    path = Run(settings).folder.samples
    index = load_samples(path)
    groups = dict(zip([sample.id for sample in index.of("labeled")], "aaabbbccd", strict=True))
    index = replace(index, samples=tuple(replace(one, group=groups.get(one.id, "x")) for one in index.samples))
    seen = set()
    for seed in range(6):
        trained, held_out = labeled_samples(settings.model_copy(update={"seed": seed}), index)
        assert 4 <= len(held_out) <= 6  # 3 images, and then a group of at most 3
        assert not {sample.group for sample in trained} & {sample.group for sample in held_out}
        assert sorted(one.id for one in trained + held_out) == [one.id for one in index.of("labeled")]
        seen.add(frozenset(sample.group for sample in held_out))
    assert len(seen) > 1
    one_group = replace(index, samples=tuple(replace(sample, group="a") for sample in index.samples))
    with pytest.raises(
        TrainingError,
        match=r"holdout is 4, but there are only 9 labeled images in 1 group, and groups are held out whole",
    ):
        labeled_samples(settings, one_group)
    assert plan_fingerprint(settings, one_group) != plan_fingerprint(settings, index)
    without = settings.model_copy(update={"train": settings.train.model_copy(update={"holdout": 0})})
    assert plan_fingerprint(without, one_group) == plan_fingerprint(without, index)  # no image is held out

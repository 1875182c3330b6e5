"""What the result of a stage depends on."""

import pytest

from pipeline.dependencies import tracked_settings

STAGES = ("prepare", "annotate", "calibrate", "probe", "pseudolabel", "stage1", "stage2", "evaluate", "report")


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        ({"data.unknown_values": "ignore"}, "prepare"),
        ({"annotate.dtype": "float16"}, "annotate"),
        ({"calibrate.alpha": 0.3}, "calibrate"),
        ({"pseudolabel.rule": "singleton"}, "pseudolabel"),
        ({"train.lr": 0.5}, "stage1"),
        ({"stage2.epochs": 9}, "stage1"),
        ({"stage2.epochs": 9, "train.lr_scope": "stage"}, "stage1"),
        ({"stage2.cutmix": 0.5, "stage2.views": 1}, "stage2"),
        ({"evaluate.flips": True}, "evaluate"),
        ({"gallery.num_images": 3}, "report"),
        ({"train.workers": 1, "compute.workers": 1, "annotate.batch_size": 7}, None),
    ],
)
def test_what_a_setting_changes_is_its_stage_and_what_follows(make_settings, overrides, first):
    before, after = make_settings(), make_settings(**overrides)
    changed = [stage for stage in STAGES if tracked_settings(before, stage) != tracked_settings(after, stage)]
    expected = STAGES[STAGES.index(first) :] if first else ()
    assert [stage for stage in changed if stage != "probe"] == [stage for stage in expected if stage != "probe"]

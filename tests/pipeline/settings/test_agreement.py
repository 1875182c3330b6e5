"""Sections that do not fit together are refused, and what the message says fixes it."""

import json

import pytest

from pipeline.errors import ConfigError

ONNX = {"model": "m.onnx", "class_map": {"background": [0], "cat": [1], "dog": []}}


@pytest.mark.parametrize(
    ("overrides", "message", "fix"),
    [
        ({"annotator": "none"}, "needs an annotator, .*, or set stage1.labels: none", {"stage1.labels": "none"}),
        (
            {"baseline": True, "stage1.labels": "none", "stage2.epochs": 0},
            "so this run trains just that; set baseline: false",
            {"baseline": False},
        ),
        (
            {"annotator": "student", "annotate.student": {"run": "tiny"}},
            "run is tiny, this run itself; .*, or set name: tiny_round2",
            {"name": "tiny_round2"},
        ),
        ({"variant": "risk"}, "of pseudolabel.rule argmax, got paper; set .*rule: argmax", {"rule": "argmax"}),
        ({"variant": "pixel", "tile": 16}, "variant has pixel, .*; set calibrate.variant: image", {"variant": "image"}),
        (
            {"variants": ["pixel"], "tile": 16},
            r"variants has pixel, .*; set calibrate.variants: \[image\]",
            {"variants": ["image"]},
        ),
        (
            {"rule": "argmax", "guarantee": {"precision": 0.9}, "variant": "image", "class_thresholds": "each"},
            "guarantee needs one threshold .*; set calibrate.class_thresholds: pooled",
            {"class_thresholds": "pooled"},
        ),
        ({"set_loss": "partial"}, "needs the prediction sets .*; set pseudolabel.keep_sets: true", {"keep_sets": True}),
        (
            {"annotator": "onnx", "annotate.onnx": ONNX, "variant": "image", "class_thresholds": "each"},
            "class_map has no channel for dog, .*; set calibrate.class_thresholds: pooled",
            {"class_thresholds": "pooled"},
        ),
        (
            {"train.framework": "allspark", "stage1.batch_size": 3},
            "needs labeled images in every batch .*; set stage1.batch_labeled: 2",
            {"stage1.batch_labeled": 2},
        ),
        (
            {"train.framework": "allspark", "network": "plain", "stage2.views": 2, "complementary_dropout": True},
            "no complementary dropout; set stage2.complementary_dropout: false",
            {"complementary_dropout": False},
        ),
        (
            {"stage1.batch_labeled": 1, "stage1.labels": "none"},
            "stage1.labels is none; remove stage1.batch_labeled",
            {"stage1.batch_labeled": None},
        ),
        (
            {"stage2.confidence": "conformal"},
            "needs train.holdout of at least 9, got 0; set train.holdout: 9",
            {"train.holdout": 9},
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_until_it_is_changed_as_the_message_says(
    make_settings, overrides, message, fix
):
    with pytest.raises(ConfigError, match=message):
        make_settings(**overrides)
    settings = make_settings(**overrides | fix)
    assert settings.tracked()


def test_a_student_whose_encoder_is_unknown_is_refused_where_its_features_are_needed(make_settings, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "upernet"}))
    student = {"train.student": str(tmp_path)}
    assert make_settings(**student).train.student == str(tmp_path)
    needed = student | {"frozen_stages": 2, "stage2.views": 2, "complementary_dropout": True}
    fixes = "set stage2.complementary_dropout: false and train.frozen_stages: 0, or train.student to one of"
    with pytest.raises(ConfigError, match=f"a network of type upernet, whose encoder is unknown; {fixes}"):
        make_settings(**needed)
    assert make_settings(**needed | {"complementary_dropout": False, "frozen_stages": 0})
    assert make_settings(**needed | {"train.student": "tiny"})

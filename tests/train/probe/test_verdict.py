"""The choice among arms, on areas that can be counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run import Run
from train.probe.arms import NO_LABELS, RAW, Arm, Labels
from train.probe.verdict import chosen, command, outcomes, sentence

CALIBRATED = Labels("calibrated", "image", 0.05, "paper")
ARMS = [Arm(NO_LABELS, 0.0), Arm(RAW, 1.0), Arm(RAW, 0.5), Arm(CALIBRATED, 1.0), Arm(CALIBRATED, 0.5)]


def areas_of(ious, num_images=6):
    """int64 [A, N, 3, 1]: in every image an arm finds, of the 100 pixels of one class, the fraction `ious`."""
    image = [[[round(100 * iou)], [100], [round(100 * iou)]] for iou in ious]
    return np.repeat(np.array(image, np.int64)[:, None], num_images, axis=1)


def judged(areas, folds=2):
    return outcomes(ARMS, areas, np.arange(areas.shape[1]) % folds, seed=0)


def test_the_miou_is_of_all_images_together():
    # two images of two classes; class 0: 30 of 60 pixels and 10 wrong ones, class 1: 20 of 40
    areas = np.array([[[10, 20], [30, 40], [20, 20]], [[20, 0], [30, 0], [20, 0]]])
    results = outcomes(ARMS, np.stack([areas] * 5), np.array([0, 1]), seed=0)
    assert results[0].miou == pytest.approx((30 / 70 + 20 / 40) / 2)
    assert results[0].by_fold == pytest.approx(
        [(10 / 40 + 20 / 40) / 2, 20 / 30]
    )  # a class that is absent does not count


def test_arms_with_equal_predictions_have_no_difference():
    rng = np.random.default_rng(0)
    right = rng.integers(1, 50, (1, 8, 1, 3))
    same = np.repeat(np.concatenate([right, right + 20, right + 10], axis=2), 5, axis=0)
    for outcome in judged(same):
        assert outcome.to_none == outcome.to_raw == (0, 0, 0)
        assert outcome.is_near_best


def test_differences_are_relative_to_the_arm_with_the_same_weight():
    results = judged(areas_of([0.5, 0.6, 0.7, 0.9, 0.8]))
    assert results[3].to_raw.value == pytest.approx(0.3)
    assert results[4].to_raw.value == pytest.approx(0.1)
    assert results[4].to_none.value == pytest.approx(0.3)
    assert results[4].to_best == pytest.approx(0.1)


def test_the_best_is_chosen_when_it_is_better_in_every_image():
    assert chosen(judged(areas_of([0.5, 0.6, 0.7, 0.9, 0.8]))).arm == ARMS[3]
    assert chosen(judged(areas_of([0.5, 0.6, 0.7, 0.6, 0.6]))).arm == ARMS[2]
    assert chosen(judged(areas_of([0.9, 0.6, 0.7, 0.6, 0.6]))).arm == ARMS[0]


def noisy(ious, gain, seed=0):
    """Areas in which the last arm is better by `gain` on average, and by that much times -20 or 22 in single images."""
    areas = areas_of(ious, 8).astype(np.float64)
    swing = np.where(np.arange(8) % 2, 22, -20)
    areas[4, :, 0, 0] += 100 * gain * swing
    areas[4, :, 2, 0] = areas[4, :, 0, 0]
    return areas.round().astype(np.int64)


def test_the_simplest_labels_are_chosen_where_the_difference_is_noise():
    results = judged(noisy([0.5, 0.5, 0.4, 0.3, 0.5], 0.02))
    assert max(results, key=lambda one: one.miou).arm == ARMS[4]
    assert chosen(results).arm == ARMS[0]
    assert "which is no more than its standard error" in sentence(results, chosen(results))


def test_raw_labels_win_over_calibrated_ones_in_the_noise_if_labels_alone_are_worse():
    results = judged(noisy([0.2, 0.5, 0.4, 0.3, 0.5], 0.02))
    assert chosen(results).arm == ARMS[1]
    assert "no more than the standard error" in sentence(results, chosen(results))


@given(st.lists(st.floats(0.05, 0.95), min_size=5, max_size=5))
def test_what_is_chosen_is_never_worse_than_the_best_by_more_than_the_noise(ious):
    results = judged(areas_of(ious))
    choice = chosen(results)
    assert choice.to_best <= choice.noise
    assert choice.miou == pytest.approx(max(one.miou for one in results))  # all images agree, so there is no noise


@pytest.mark.parametrize("arm", ARMS)
def test_the_command_sets_what_the_arm_is(arm):
    import shlex

    import yaml

    from pipeline.overrides import split_workflow_config
    from pipeline.run_file import load_settings

    words = dict(
        word.split("=", 1) for word in shlex.split(command(Run(load_settings("voc_animals")), arm)) if "=" in word
    )
    config = {name: yaml.safe_load(value) for name, value in words.items()}
    settings = load_settings(*split_workflow_config(config))
    if arm.labels == NO_LABELS:
        assert settings.preset == "label-only"
        return
    assert (settings.stage1.loss, settings.stage1.pseudo_weight) == ("eq2", arm.weight)
    if arm.labels == CALIBRATED:
        assert (settings.calibrate.variant, settings.calibrate.alpha, settings.pseudolabel.rule) == (
            "image",
            0.05,
            "paper",
        )
    else:
        assert settings.pseudolabel.rule == "raw"


def test_intervals_resample_units():
    """Two units of three equal images each: a resampling is twice the first, twice the second, or both."""
    areas = areas_of([0.2, 0.3, 0.3, 0.4, 0.4])
    areas[3, :3, [0, 2]] = 90
    in_units = outcomes(ARMS, areas, np.arange(6) // 3, 0, np.array([0, 0, 0, 1, 1, 1]))
    assert in_units[3].to_none == pytest.approx((0.65 - 0.2, 0.4 - 0.2, 0.9 - 0.2))
    alone = outcomes(ARMS, areas, np.arange(6) // 3, 0)
    assert alone[3].to_none.value == in_units[3].to_none.value
    assert alone[3].to_none.low > in_units[3].to_none.low

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.augment import Box, cutmix, draw_box, partners

SIDE = 200


def boxes_of(num, probability=1.0):
    return [draw_box(random.Random(seed), SIDE, probability) for seed in range(num)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 600), st.integers(0, 10_000))
def test_a_box_lies_inside_the_view(side, seed):
    box = draw_box(random.Random(seed), side, 1.0)
    assert min(box.top, box.left) >= 0
    assert max(box.top + box.height, box.left + box.width) <= side


def test_areas_and_aspects_span_their_ranges():
    boxes = boxes_of(5000)
    areas = np.array([box.height * box.width / SIDE**2 for box in boxes])
    aspects = np.array([box.height / box.width for box in boxes])
    assert 0.018 < areas.min() < 0.025  # sides are rounded down
    assert 0.38 < areas.max() <= 0.4
    assert 0.27 < aspects.min() < 0.35
    assert 3.0 < aspects.max() < 3.7


def test_boxes_that_rarely_fit_are_as_frequent_as_others():
    areas = [box.height * box.width / SIDE**2 for box in boxes_of(5000)]
    assert np.mean(areas) == pytest.approx(0.21, abs=0.006)
    assert np.std(areas) == pytest.approx(0.38 / 12**0.5, abs=0.004)


def test_corners_are_spread_over_the_view():
    boxes = boxes_of(5000)
    assert {box.top for box in boxes} >= set(range(100))
    assert np.mean([box.top + box.height / 2 for box in boxes]) == pytest.approx(SIDE / 2, abs=2)
    assert np.mean([box.left + box.width / 2 for box in boxes]) == pytest.approx(SIDE / 2, abs=2)


def test_a_box_is_drawn_with_the_given_probability():
    for probability in (0.0, 1.0, 0.3):
        fraction = np.mean([box is not None for box in boxes_of(2000, probability)])
        assert fraction == pytest.approx(probability, abs=0.04)


def test_neighbours_are_partners_and_an_odd_last_one_takes_the_first():
    assert partners(4) == [1, 0, 3, 2]
    assert partners(5) == [1, 0, 3, 2, 0]
    assert partners(1) == [0]
    assert partners(0) == []


def test_pastes_the_partners_pixels_inside_the_box():
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 4, 5).contiguous()
    targets = 10 + images[:, 0]
    confidences = targets / 100
    boxes = [Box(1, 2, 2, 3), None, Box(0, 0, 1, 1)]
    images, targets, confidences = cutmix([images, targets, confidences], boxes, partners(3))
    assert targets[0].tolist() == [[10, 10, 10, 10, 10], [10, 10, 11, 11, 11], [10, 10, 11, 11, 11], [10] * 5]
    assert targets[1].tolist() == [[11] * 5] * 4
    assert targets[2].tolist() == [[10, 12, 12, 12, 12], [12] * 5, [12] * 5, [12] * 5]
    assert torch.equal(images, targets[:, None].expand(3, 3, 4, 5) - 10)
    assert torch.equal(confidences, targets / 100)
    assert (images.dtype, targets.dtype, confidences.dtype) == (torch.uint8, torch.uint8, torch.float32)


def test_partners_exchange_their_original_pixels_and_the_input_is_unchanged():
    targets = torch.tensor([1, 2])[:, None, None].expand(2, 4, 4).contiguous()
    before = targets.clone()
    whole = Box(0, 0, 4, 4)
    (mixed,) = cutmix([targets], [whole, whole], partners(2))
    assert mixed[:, 0, 0].tolist() == [2, 1]
    assert torch.equal(targets, before)


def test_a_single_view_or_one_without_a_box_is_unchanged():
    targets = torch.arange(16).reshape(1, 4, 4)
    assert torch.equal(cutmix([targets], [Box(1, 1, 2, 2)], partners(1))[0], targets)
    assert torch.equal(cutmix([targets], [None], partners(1))[0], targets)

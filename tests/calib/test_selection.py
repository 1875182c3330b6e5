"""Which images to label next: counts by hand, and the choice against other implementations."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calib
from calib.selection import CANDIDATES, Doubt, choose_images, count_doubt, expected_gain, features

# class 0 is the background
PROBABILITIES = np.array(
    [[[0.7, 0.1], [0.2, 0.1]], [[0.2, 0.6], [0.5, 0.8]], [[0.1, 0.3], [0.3, 0.1]]], np.float32
)  # [K, H, W]


def test_pixels_are_counted_by_their_most_probable_class():
    label = np.array([[0, np.nan], [1, 1]], np.float32)
    counted = count_doubt(label, calib.class_planes(PROBABILITIES, 0), 0, 3)
    assert counted.pixels.tolist() == [1, 3, 0]
    assert counted.unlabeled.tolist() == [0, 1, 0]
    assert counted.doubt == pytest.approx([0.3, 0.5 + 0.2, 0])


def test_a_doubtful_pixel_of_a_rare_class_counts_more():
    common = Doubt(np.array([90, 10]), np.array([8, 0]), np.array([2.0, 0]))
    rare = Doubt(np.array([90, 10]), np.array([0, 8]), np.array([0, 2.0]))
    assert expected_gain([common, rare]) == pytest.approx([10 / (180 + 100) / 2, 10 / (20 + 100) / 2])


def test_features_are_what_an_image_shows_and_the_colours_of_its_blocks():
    image = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    fractions, colours = features(image, np.array([9, 0, 16]))
    assert fractions == pytest.approx([0.6, 0, 0.8])
    rows, columns = [0, 2, 4, 6, 9], [0, 1, 3, 4, 6]
    blocks = [image[a:b, c:d].mean(axis=(0, 1)) / 255 for a, b in pairwise(rows)
              for c, d in pairwise(columns)]  # fmt: skip
    assert colours == pytest.approx(np.concatenate(blocks))


def similarities(images, others):
    """Pair by pair."""
    total = np.zeros((len(images[0]), len(others[0])))
    for kind, of_others in zip(images, others, strict=True):
        pairs = [((a - b) ** 2).sum() for a, b in combinations(kind, 2)]
        scale = np.median(pairs) or 1.0
        total += [[((a - b) ** 2).sum() / scale for b in of_others] for a in kind]
    return np.exp(-total / len(images))


def value(gain, similar, known, chosen):
    """Facility location: every image counts by its most similar chosen or labeled one."""
    return sum(gain[i] * max([known[i], *(similar[i, j] for j in chosen)]) for i in range(len(gain)))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(3, 8), st.integers(0, 3), st.integers(1, 3))
def test_the_greedy_choice_is_near_the_best_set(seed, num, num_labeled, count):
    rng = np.random.default_rng(seed)
    gain = rng.random(num)
    images, labeled = ([rng.normal(size=(n, d)) for d in (3, 5)] for n in (num, num_labeled))
    similar = similarities(images, images)
    known = similarities(images, labeled).max(axis=1, initial=0)
    chosen = choose_images(gain, images, labeled, count)
    expected = []
    candidates = sorted(range(num), key=lambda i: -gain[i])[: CANDIDATES * count]
    for _ in range(count):  # one at a time, by value
        rest = [j for j in sorted(candidates) if j not in expected]
        expected.append(max(rest, key=lambda j: value(gain, similar, known, [*expected, j])))
    assert chosen.images.tolist() == expected
    start = value(gain, similar, known, [])
    best = max(value(gain, similar, known, some) for some in combinations(candidates, count))
    assert value(gain, similar, known, expected) - start >= (1 - 1 / np.e) * (best - start) - 1e-9
    nearest = [int(np.argmax([known[i], *similar[i, expected]])) for i in range(num)]
    assert chosen.represents.tolist() == [nearest.count(k + 1) for k in range(count)]


def test_of_equal_images_one_is_chosen_and_none_like_a_labeled_one():
    kinds = [np.array([[0.0], [0.0], [0.0], [3.0], [9.0]])]
    chosen = choose_images(np.array([1, 1, 1, 0.1, 0.9]), kinds, [np.array([[9.0]])], 2)
    assert chosen.images.tolist() == [0, 3]
    assert chosen.represents.tolist() == [3, 1]


def test_all_are_chosen_if_there_are_no_more_and_alike_images_are_no_error():
    kinds = [np.ones((3, 2)), np.zeros((3, 4))]
    chosen = choose_images(np.array([0.1, 0.3, 0.2]), kinds, [np.empty((0, 2)), np.empty((0, 4))], 5)
    assert sorted(chosen.images.tolist()) == [0, 1, 2]

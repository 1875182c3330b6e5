"""Colours that distinguish the classes."""

import itertools

import numpy as np
import pytest

from pipeline.palette import class_colours, oklch_to_rgb


@pytest.mark.parametrize("num_classes", [2, 3, 7, 11, 21, 40])
def test_no_two_classes_look_alike(num_classes):
    colours = class_colours(num_classes).astype(int)
    nearest = min(np.abs(a - b).sum() for a, b in itertools.combinations(colours, 2))
    assert nearest > 15


def test_the_background_is_grey_and_leaves_the_other_colours_alone():
    colours, with_background = class_colours(5), class_colours(5, background=1)
    assert len(set(with_background[1].tolist())) == 1
    np.testing.assert_array_equal(np.delete(with_background, 1, axis=0), np.delete(colours, 1, axis=0))


@pytest.mark.parametrize(
    ("lightness", "chroma", "hue", "rgb"),
    [(1, 0, 0, [255, 255, 255]), (0.5999, 0, 0, [128, 128, 128]), (0.44027, 0.1603, 303.373, [102, 51, 153])],
)
def test_oklch_gives_white_grey_and_rebeccapurple_as_css_defines_them(lightness, chroma, hue, rgb):
    np.testing.assert_allclose(oklch_to_rgb(lightness, chroma, hue).astype(int), rgb, atol=1)


def test_a_colour_that_no_screen_shows_keeps_its_lightness_and_loses_chroma():
    strong, stronger = (oklch_to_rgb(0.7, chroma, 150).astype(int) for chroma in (0.4, 0.8))
    assert np.abs(strong - stronger).max() <= 12

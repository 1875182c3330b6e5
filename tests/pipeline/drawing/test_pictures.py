"""Pictures: the colour of a class where that class is, hatching where there is none."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.drawing.pictures import (
    OPACITY,
    STRIPE,
    data_uri,
    describe,
    hatch,
    paint_classes,
    paint_values,
    shrink,
    value_map,
)
from pipeline.palette import class_colours, scale_colours

NAN = float("nan")
GREY = np.full((2, 20, 3), 100, np.uint8)


def blended(colour):
    return np.rint((1 - OPACITY) * 100 + OPACITY * np.asarray(colour, float)).astype(np.uint8).tolist()


def test_a_class_is_painted_in_its_colour_and_abstention_is_hatched():
    colours = class_colours(3)
    label = np.full((2, 20), NAN, np.float32)
    label[0, 0], label[1, 7] = 2, 0
    painted = paint_classes(GREY, label, colours)
    assert painted[0, 0].tolist() == blended(colours[2])
    assert painted[1, 7].tolist() == blended(colours[0])
    rest = np.isnan(label)
    np.testing.assert_array_equal(painted[rest], hatch(GREY)[rest])


def test_void_in_a_mask_is_hatched_like_abstention():
    mask = np.full((2, 20), 255, np.uint8)
    np.testing.assert_array_equal(paint_classes(GREY, mask, class_colours(3)), hatch(GREY))


def test_hatching_has_light_stripes_on_a_dimmed_image():
    values = set(hatch(GREY).ravel().tolist())
    assert values == {STRIPE, 45}


def test_values_run_from_dark_to_light_and_infinite_ones_are_hatched():
    values = np.array([[0.0, 1.0, 0.5, NAN, np.inf] * 4] * 2)
    painted, scale = paint_values(GREY, values, 0.0, 1.0), scale_colours()
    assert painted[0, 0].tolist() == blended(scale[0])
    assert painted[0, 1].tolist() == blended(scale[-1])
    np.testing.assert_array_equal(painted[:, 3::5], hatch(GREY)[:, 3::5])
    bare = value_map(values, 0.0, 1.0)
    assert bare[0, 0].tolist() == scale[0].tolist()
    assert np.diff(scale.astype(int).sum(axis=1)).min() >= -3  # lighter and lighter, up to rounding


def test_a_label_is_described_in_words_with_what_is_missing():
    label = np.array([[0, 0, 1, NAN]], np.float32)
    assert describe(label, ["sky", "road"]) == "sky 50\u00a0%, road 25\u00a0%; 25\u00a0% without a class"
    assert describe(np.full((1, 4), 255, np.uint8), ["sky"]) == "100\u00a0% without a class"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_data_address_holds_the_picture(kind):
    head, _, content = data_uri(GREY, kind).partition(",")
    assert head == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.format == kind.upper()
        assert np.abs(np.asarray(image).astype(int) - 100).max() <= (0 if kind == "png" else 3)


def test_pictures_are_reduced_but_never_enlarged():
    assert shrink(np.zeros((30, 60, 3), np.uint8), 20).shape == (10, 20, 3)
    assert shrink(GREY, 400) is GREY

"""Outlines: both ways to draw a polygon give back every pixel, holes and touching corners included."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from pipeline.exchange.polygons import INSET, outlines

LABELS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.sampled_from([0, 1, 255]))


def with_borders(polygons, height, width):
    """uint8 [H, W] as Pillow draws polygons: inside and border, with coordinates cut to integers."""
    picture = Image.new("L", (width, height), 255)
    for polygon in polygons:
        points = [tuple(point) for point in polygon.points.tolist()]
        ImageDraw.Draw(picture).polygon(points, polygon.class_index, polygon.class_index)
    return np.array(picture)


def at_centres(polygons, height, width):
    """uint8 [H, W] by the even-odd rule: a centre is inside if a ray to the right crosses an odd number of sides."""
    label = np.full((height, width), 255, np.uint8)
    for y, x in np.ndindex(height, width):
        for polygon in polygons:
            crossings = 0
            for (x1, y1), (x2, y2) in zip(polygon.points, np.roll(polygon.points, -1, 0), strict=True):
                crossings += x1 == x2 and x1 > x + 0.5 and (y1 > y + 0.5) != (y2 > y + 0.5)
            if crossings % 2:
                assert label[y, x] == 255, "polygons do not overlap"
                label[y, x] = polygon.class_index
    return label


@settings(max_examples=60)
@given(LABELS)
def test_both_ways_to_draw_give_back_the_label(label):
    polygons = outlines(label)
    assert np.array_equal(with_borders(polygons, *label.shape), label)
    assert np.array_equal(at_centres(polygons, *label.shape), label)


def test_a_pixel_is_a_square_and_a_region_is_one_polygon_with_a_cut_to_its_hole():
    (pixel,) = outlines(np.array([[255, 7]], np.uint8))
    low, high = 1 + INSET, 2 - INSET
    assert pixel.class_index == 7
    assert sorted(map(tuple, pixel.points)) == [(low, INSET), (low, 1 - INSET), (high, INSET), (high, 1 - INSET)]
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 255
    (polygon,) = outlines(ring)
    assert len(polygon.points) == 4 + 4 + 4, "corners outside, corners of the hole, and ends of the cut on both sides"


def test_pixels_that_touch_at_a_corner_are_regions_of_their_own():
    assert len(outlines(np.eye(3, dtype=np.uint8))) == 3 + 2

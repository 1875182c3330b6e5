"""Regions: shapes whose pixels can be counted by hand, and one rule for what is in front."""

import numpy as np
import pytest

from pipeline.errors import DatasetError
from pipeline.sources.annotations.regions import Region, annotated_image, bitmap, box, ellipse, of_size, polygon, runs


def pixels(shape, height=4, width=6):
    return ["".join(".#"[int(p)] for p in row) for row in shape(height, width)]


def test_shapes_have_the_pixels_whose_centre_is_inside():
    assert pixels(polygon([(1, 1), (4, 1), (4, 3), (1, 3)])) == ["......", ".###..", ".###..", "......"]
    assert pixels(of_size(lambda w, h: polygon([(0, 0), (w / 2, 0), (w / 2, h / 2), (0, h / 2)]))) == [
        *["###..."] * 2,
        *["......"] * 2,
    ]
    assert pixels(ellipse(3, 2, 2.5, 1)) == ["......", ".####.", ".####.", "......"]
    # turned by 90 degrees, its long axis is upright
    assert pixels(ellipse(3, 2, 2, 1, 90)) == ["..##.."] * 4
    assert pixels(bitmap(np.array([[1, 0], [1, 1]], bool), 4, 2)) == ["......", "......", "....#.", "....##"]
    assert runs(np.array([1, 2, 3]), 2, 3).astype(int).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_a_box_has_the_pixels_that_it_touches_and_is_turned_around_its_centre_or_a_corner():
    assert pixels(box(0.5, 1.2, 1, 0.1)) == ["......", "##....", "......", "......"]
    assert pixels(box(1, 1, 3, 1, 90, (1, 1))) == ["......", "#.....", "#.....", "#....."]
    assert pixels(box(1, 0, 1, 3, 90)) == ["......", "###...", "......", "......"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (polygon([(0, 0), (float("nan"), 1), (2, 2)]), "not finite"),
        (box(0, 0, 0, 3), "no area"),
        (box(0, 0, float("inf"), 3), "no area"),
        (ellipse(0, 0, 1, 0), "no area"),
        (
            bitmap(np.ones((2, 2), bool), 5, 0),
            "covers columns 5 to 7 and rows 0 to 2, but the image has 6 columns and 4",
        ),
        (bitmap(np.ones((2, 2), bool), 0, -1), "covers columns 0 to 2 and rows -1 to 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_the_name_of_the_region(shape, message):
    image = annotated_image("a.jpg", "file.json", [Region("region 7", "cat", shape)])
    with pytest.raises(
        DatasetError, match=f"file.json: region 7 cannot be drawn: .*{message}.*; correct or remove these"
    ):
        image.draw((4, 6))


def test_the_smaller_region_is_in_front_unless_a_layer_says_otherwise_and_boxes_are_void():
    left, corner = polygon([(0, 0), (3, 0), (3, 4), (0, 4)]), polygon([(0, 0), (1, 0), (1, 2), (0, 2)])

    def mask(*regions):
        return annotated_image("a.jpg", "f", list(regions)).draw((4, 6))

    drawn = mask(Region("1", "dog", corner), Region("2", "cat", left), Region("3", "x", box(2, 0, 2, 1), is_box=True))
    assert drawn.mask.tolist() == [[1, 2, 2, 255, 0, 0], [1, 2, 2, 0, 0, 0], *[[2, 2, 2, 0, 0, 0]] * 2]
    assert drawn.num_covered == 2
    drawn = mask(Region("1", "dog", corner, layer=-1), Region("2", "cat", left))
    assert (drawn.mask[:, :3] == 2).all()
    assert drawn.num_covered == 2
    drawn = mask(Region("1", "cat", corner), Region("2", "cat", left), Region("3", "cat", corner))
    assert drawn.num_covered == 0, "outlines of one label hide nothing"

"""COCO's shapes: polygons against the even-odd rule taken literally, run lengths against encoders."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.sources.convert_masks.shapes import add_polygon, rle_mask, shape_mask, string_counts


def drawn(polygon, height, width):
    mask = np.zeros((height, width), bool)
    add_polygon(mask, polygon)
    return mask


def test_a_rectangle_fills_the_pixels_that_it_encloses():
    expected = np.zeros((4, 5), bool)
    expected[1:3, 1:4] = True
    assert (drawn([1, 1, 4, 1, 4, 3, 1, 3], 4, 5) == expected).all()
    assert (drawn([1, 3, 4, 3, 4, 1, 1, 1], 4, 5) == expected).all()  # the other way round


def test_a_triangle_fills_the_pixels_whose_centres_it_encloses():
    assert drawn([0, 0, 4, 0, 0, 4], 5, 5).sum(axis=1).tolist() == [3, 2, 1, 0, 0]


def test_shapes_are_cut_off_at_the_border():
    assert drawn([-5, -5, 2, -5, 2, 2, -5, 2], 4, 4).sum() == 4
    assert drawn([2, 2, 50, 2, 50, 50, 2, 50], 4, 4).sum() == 4
    assert drawn([-9, -9, 90, -9, 90, 90, -9, 90], 4, 4).all()
    assert not drawn([-9, 0, -5, 0, -5, 4], 4, 4).any()
    assert not drawn([0, 9, 4, 9, 4, 12], 4, 4).any()


@pytest.mark.parametrize("polygon", [[], [1, 1], [1, 1, 3, 3], [1, 1, 1, 1, 1, 1], [0, 2, 4, 2, 1, 2]])
def test_shapes_without_area_draw_nothing(polygon):
    assert not drawn(polygon, 4, 4).any()


quarters = st.integers(-8, 40)  # coordinates in quarters of a pixel


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(quarters, quarters), min_size=3, max_size=8))
def test_a_pixel_is_set_if_its_centre_is_inside_by_the_even_odd_rule(points):
    corners = [(Fraction(x, 4), Fraction(y, 4)) for x, y in points]
    expected = np.zeros((8, 8), bool)
    for row in range(8):
        for column in range(8):
            crossings = [x - column - Fraction(1, 2) for x in crossings_at(corners, row + Fraction(1, 2))]
            assume(all(distance != 0 for distance in crossings))  # on the line itself both answers are correct
            expected[row, column] = sum(distance < 0 for distance in crossings) % 2
    assert (drawn([float(value) for corner in corners for value in corner], 8, 8) == expected).all()


def crossings_at(corners, y):
    """Where the outline crosses a horizontal line, exactly."""
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 <= y) != (y1 <= y):
            yield x0 + (y - y0) * (x1 - x0) / (y1 - y0)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 19.99), st.floats(0.01, 19.99))
def test_two_shapes_with_a_common_edge_cover_each_pixel_once(top, bottom):
    left = drawn([0, 0, top, 0, bottom, 20, 0, 20], 20, 20)
    right = drawn([top, 0, 20, 0, 20, 20, bottom, 20], 20, 20)
    assert (left ^ right).all()


def test_parts_of_one_annotation_are_united():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 3, 1, 3, 3, 1, 3]]
    assert shape_mask(parts, 4, 4).sum() == 7


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools 2.0.11 with numpy 2
def test_polygons_are_neither_larger_nor_smaller_than_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    ours = theirs = either = both = 0
    for _ in range(200):
        angle, radius = np.sort(rng.uniform(0, 2 * np.pi, 12)), rng.uniform(10, 60, 12)
        polygon = (64 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)).round(2).ravel().tolist()
        mask = drawn(polygon, 128, 128)
        reference = coco.decode(coco.frPyObjects([polygon], 128, 128))[..., 0].astype(bool)
        ours, theirs = ours + mask.sum(), theirs + reference.sum()
        either, both = either + (mask | reference).sum(), both + (mask & reference).sum()
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert both / either > 0.98


def test_runs_go_down_the_columns_and_start_outside():
    expected = [[False, True, False], [True, False, False]]
    assert rle_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3).tolist() == expected
    assert rle_mask({"size": [2, 3], "counts": "123"}, 2, 3).tolist() == expected


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("0", [0]),
        ("?", [15]),
        ("`0", [16]),  # 16 has the bit of the sign set, so a zero must follow
        ("d0", [20]),
        ("567N", [5, 6, 7, 4]),  # the fourth is 6 - 2, and -2 is 11110 in five bits
    ],
)
def test_the_compressed_string_is_read_as_by_hand(text, counts):
    assert string_counts(text) == counts


def compressed(counts):
    """The encoder, by its definition."""
    text = ""
    for index, count in enumerate(counts):
        number = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@given(st.lists(st.integers(0, 10**6), max_size=20))
def test_the_compressed_string_gives_back_what_was_encoded(counts):
    assert string_counts(compressed(counts)) == counts


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_both_encodings_give_the_mask_that_pycocotools_encoded(height, width, random):
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.array([[random.random() < 0.4 for _ in range(width)] for _ in range(height)])
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (encoded, string_counts(encoded)):
        assert (rle_mask({"size": [height, width], "counts": counts}, height, width) == mask).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "its segmentation is neither a list of polygons nor a run-length encoding"),
        ([], "its segmentation is neither a list of polygons nor a run-length encoding"),
        ([[1, 2, 3, 4, 5]], "its polygon is not a list of x, y"),
        ({"size": [3, 2], "counts": [6]}, r"is of size \[3, 2\], the image is \[2, 3\]"),
        ({"size": [2, 3], "counts": [1, 2]}, "covers 3 pixels, the image has 6"),
        ({"size": [2, 3], "counts": [7, -1]}, "covers 6 pixels"),
        ({"size": [2, 3], "counts": [2**62] * 4 + [6]}, "covers 18446744073709551622 pixels"),
        ([[0, 0, 9, 9] * 1_000_000], "crosses more rows of pixels than the image has pixels"),
        ({"size": [2, 3]}, "has no counts"),
        ({"size": [2, 3], "counts": "12P"}, "ends within a number"),
    ],
)
def test_malformed_shapes_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        shape_mask(segmentation, 2, 3)

"""Tiles: the cores partition the image, and what was cut is the same when it is stitched."""

from itertools import pairwise

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.tiles import only_core, starts, stitch, tiles_of


@st.composite
def cuts(draw):
    """Size of an image, and side and overlap of its tiles."""
    side = draw(st.integers(1, 12))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return size, side, draw(st.integers(0, side - 1))


@given(cuts())
def test_cores_partition_the_image_and_windows_of_one_size_are_inside(cut):
    size, side, overlap = cut
    count = np.zeros(size, int)
    for tile in tiles_of("a", size, side, overlap):
        tile.core.of(count)[...] += 1
        assert tile.window[2:] == (min(side, size[0]), min(side, size[1]))
        for window in (tile.window, tile.core.seen_from(tile.window)):
            assert min(window) >= 0
        assert tile.window.top + tile.window.height <= size[0]
        assert tile.window.left + tile.window.width <= size[1]
        assert tile.core_of(tile.window.of(count)).shape == tile.core.of(count).shape
        assert min(tile.core.of(count).shape) > 0
    assert (count == 1).all()


@given(cuts())
def test_neighbours_share_the_overlap_at_least_and_the_last_one_ends_with_the_axis(cut):
    (length, _), side, overlap = cut
    assume(side < length)
    first = starts(length, side, side - overlap)
    assert all(before + side - after >= overlap for before, after in pairwise(first))
    assert first[-1] + side == length


@given(cuts())
def test_stitching_what_was_cut_gives_the_image(cut):
    size, side, overlap = cut
    image = np.arange(size[0] * size[1]).reshape(size)
    stitched = np.full(size, -1)
    for tile in tiles_of("a", size, side, overlap):
        stitch(stitched, tile, only_core(tile.window.of(image), tile, -2))
    assert (stitched == image).all()


def test_tiles_countable_by_hand():
    rows = [(tile.id, tuple(tile.window), tuple(tile.core)) for tile in tiles_of("a", (5, 12), 5, 2)]
    assert rows == [
        ("a@0,0", (0, 0, 5, 5), (0, 0, 5, 4)),
        ("a@0,3", (0, 3, 5, 5), (0, 4, 5, 3)),
        ("a@0,6", (0, 6, 5, 5), (0, 7, 5, 2)),
        ("a@0,7", (0, 7, 5, 5), (0, 9, 5, 3)),
    ]

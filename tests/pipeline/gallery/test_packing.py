"""Arrays in a page: read back by other means they are what they were."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.gallery.packing import pack, shown_size, steps


@given(arrays.arrays(np.int64, arrays.array_shapes(max_dims=3, max_side=5), elements=st.integers(0, 2**31 - 1)))
def test_counts_add_up_again(counts):
    packed = zlib.decompress(base64.b64decode(pack(steps(counts))))
    again = np.frombuffer(packed, "<i4").reshape(counts.shape).cumsum(axis=-1)
    np.testing.assert_array_equal(again, counts)


def test_a_view_is_packed_in_the_order_it_is_read():
    turned = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    assert zlib.decompress(base64.b64decode(pack(turned))) == bytes([0, 3, 1, 4, 2, 5])


@pytest.mark.parametrize(
    ("size", "longest", "shown"),
    [((512, 512), 256, (256, 256)), ((360, 480), 256, (192, 256)), ((16, 24), 256, (16, 24)), ((1, 900), 32, (1, 32))],
)
def test_the_longer_side_is_reduced_and_nothing_enlarged(size, longest, shown):
    assert shown_size(size, longest) == shown

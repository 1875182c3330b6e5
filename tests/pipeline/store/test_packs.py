"""Packs: every row is found where the index says, and no damaged index is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.store.packs import index_bytes, packed, places_in

DIGESTS = st.text("0123456789abcdef", min_size=16, max_size=16)
ROWS = st.dictionaries(DIGESTS, st.binary(max_size=40), min_size=1, max_size=6)


@given(ROWS, st.integers(0, 99))
def test_rows_are_where_the_index_says(rows, more):
    content = packed(rows)
    tail = content[-index_bytes(content[-12:]) - more :]
    places = places_in("p", tail)
    assert {digest: content[place.offset : place.offset + place.length] for digest, place in places.items()} == rows
    assert {place.pack for place in places.values()} == {"p"}


@given(ROWS, st.data())
def test_a_damaged_index_is_refused(rows, data):
    content = packed(rows)
    at = data.draw(st.integers(len(content) - index_bytes(content), len(content) - 1))
    damaged = bytearray(content)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    for one in (bytes(damaged), content[:at], b""):
        with pytest.raises(StoreError, match="has no index, or a damaged one"):
            places_in("p", one)

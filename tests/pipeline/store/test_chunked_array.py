"""Chunks are to the byte those of zarr, for random arrays and selections, and each writes what the other reads."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given, settings

from pipeline.store.arrays import FAST, ArraySpec
from pipeline.store.chunked_array import ChunkedArray, encode_chunk
from pipeline.store.metadata import array_document

NAN = float("nan")
FILLS = {
    "uint8": 255,
    "int32": -1,
    "uint64": 0,
    "uint16": 0,
    "float16": NAN,
    "float32": 0.0,
    "float64": NAN,
    "string": "",
}


@st.composite
def specs(draw):
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    chunks = [draw(st.integers(1, length)) for length in shape]
    dtype = draw(st.sampled_from(sorted(FILLS))) if len(shape) > 1 else "string"
    return ArraySpec(tuple("abcd"[: len(shape)]), tuple(shape), dtype, FILLS[dtype], tuple(chunks))


@st.composite
def selections(draw, shape):
    """Integers and slices along some first axes, or everything."""
    parts = []
    for length in shape[: draw(st.integers(0, len(shape)))]:
        start, stop = sorted(draw(st.tuples(st.integers(0, length - 1), st.integers(0, length))))
        parts.append(draw(st.sampled_from([start, slice(start, stop), slice(None), np.int64(-1)])))
    return tuple(parts) or ...


def theirs(folder: Path, spec: ArraySpec):
    """The array opened by zarr, which writes all-fill chunks, too."""
    folder.mkdir(exist_ok=True)
    (folder / "zarr.json").write_text(json.dumps(array_document(spec)))
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(folder, mode="r+")


def files(folder: Path):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if "c" in path.parts and path.is_file()
    }


def test_an_empty_selection_writes_no_chunk(tmp_path):
    array = ChunkedArray(tmp_path, ArraySpec(("y", "x"), (1, 2), "float16", np.nan, (1, 2)))
    array[0, 1:1] = np.empty(0)
    assert array[0, 1:1].shape == (0,)
    assert files(tmp_path) == {}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_selections_write_and_read_what_zarr_does(data):
    spec = data.draw(specs())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with TemporaryDirectory() as folder:
        ours, reader = ChunkedArray(Path(folder, "ours"), spec), theirs(Path(folder, "ours"), spec)
        other = theirs(Path(folder, "theirs"), spec)
        for _ in range(3):
            selection = data.draw(selections(spec.shape))
            shape = np.empty(spec.shape)[selection].shape
            values = rng.integers(0, 99, shape)
            values = values.astype(str).astype(object) if spec.dtype == "string" else values.astype(spec.dtype)
            values = values[()]  # a text, not an array without axes
            ours[selection] = values
            other[selection] = values
            assert files(Path(folder, "ours")) == files(Path(folder, "theirs"))
            selection = data.draw(selections(spec.shape))
            np.testing.assert_array_equal(ours[selection], reader[selection])
            np.testing.assert_array_equal(ours[selection], other[selection])


SPEC = ArraySpec(("y", "x"), (4, 6), "float32", NAN, (4, 6))


@pytest.fixture
def array(tmp_path):
    array = ChunkedArray(tmp_path, SPEC)
    array[...] = np.arange(24, dtype=np.float32).reshape(4, 6)
    return array


def test_every_flipped_bit_and_every_cut_is_noticed(array, tmp_path):
    file = tmp_path / "c/0/0"
    content = file.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        for damaged in (flipped, content[:position]):
            file.write_bytes(damaged)
            with pytest.raises((ValueError, RuntimeError)):
                array[...]
    file.write_bytes(content)
    assert array[1, 2] == 8


def test_a_sound_chunk_of_another_size_is_not_read(array, tmp_path):
    for other in (np.zeros((4, 5), np.float32), np.zeros((4, 7), np.float32), np.zeros((4, 6), np.float64)):
        (tmp_path / "c/0/0").write_bytes(encode_chunk(other, FAST))
        with pytest.raises(ValueError, match=f"a chunk of {other.nbytes} bytes, expected 96"):
            array[...]


def test_a_lost_chunk_has_the_fill_value_and_an_index_beyond_the_end_is_refused(array, tmp_path):
    (tmp_path / "c/0/0").unlink()
    assert np.isnan(array[...]).all()
    with pytest.raises(IndexError):
        array[4]

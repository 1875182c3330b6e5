"""Shards: zarr itself writes the same bytes and metadata, and no damaged index is read."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from label_store import NAN, write_label_store
from stage_runs import contents
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.errors import StoreError
from pipeline.store import open_labels, shards
from pipeline.store.metadata import sharded_document
from pipeline.store.shards import chunks_in, images_per_shard, is_shard, sharded, shards_of

SIZE = 4
CHUNKS = st.dictionaries(st.integers(0, SIZE - 1), st.binary(max_size=20))


@given(CHUNKS)
def test_chunks_are_where_the_index_says(chunks):
    assert chunks_in(sharded(chunks, SIZE), SIZE) == chunks


@given(CHUNKS, st.data())
def test_a_damaged_index_is_refused(chunks, data):
    content = sharded(chunks, SIZE)
    at = data.draw(st.integers(len(content) - 16 * SIZE - 4, len(content) - 1))
    damaged = bytearray(content)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    for one in (bytes(damaged), content[:at], content + b"\0", b""):
        with pytest.raises(StoreError, match="a shard of 4 chunks has no index, or a damaged one"):
            chunks_in(one, SIZE)


def test_zarr_writes_the_same_shards_and_metadata(tmp_path):
    """Of every array with pixels of a store with two alphas and sets, five images of which are in shards of two."""
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 1, NAN], np.float32), (2, 5, 6, 7))
    sets = rng.integers(0, 15, (5, 1, 6, 7), dtype=np.uint8)
    store = open_labels(write_label_store(tmp_path, labels, [(6, 7)] * 5, alphas=(0.1, 0.2), sets=list(sets)))
    names = {name for name, spec in store.specs.items() if spec.has_pixels}
    assert names > {"label", "label_by_alpha", "set", "p_background"}
    made = {}
    for images in ((0, 1), (2, 3), (4,)):
        of_images = list(shards_of(store, 2, images))
        made |= {shard.name: shard.content(store.path) for shard in of_images}
        assert all(shard.num_bytes(store.path) == len(made[shard.name]) for shard in of_images)
    group = zarr.open_group(tmp_path / "zarr", mode="w")
    for name in names:
        spec = store.specs[name]
        array = group.create_array(
            name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            shards=[2 if dim == "sample" else length for dim, length in zip(spec.dims, spec.chunks, strict=True)],
            fill_value=spec.fill,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
            dimension_names=spec.dims,
            attributes=dict(spec.attributes),
        )
        array[:] = store.array(name)[...]
        assert json.loads((tmp_path / f"zarr/{name}/zarr.json").read_text()) == sharded_document(spec, 2)
    theirs = {name: content for name, content in contents(tmp_path / "zarr").items() if is_shard(name.as_posix())}
    assert {name.as_posix(): content for name, content in theirs.items()} == made


def test_the_largest_array_decides_how_many_images_a_shard_has(tmp_path, monkeypatch):
    store = open_labels(write_label_store(tmp_path, np.zeros((1, 5, 6, 7)), [(6, 7)] * 5))
    assert images_per_shard(store) == 5
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 6 * 7 * 4)
    assert images_per_shard(store) == 3
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    assert images_per_shard(store) == 1


def test_shards_have_names_of_their_own():
    assert is_shard("label/c/0/0/0")
    assert is_shard("label_by_alpha/c/1/0/0/0")
    assert not any(map(is_shard, ("label/zarr.json", "zarr.json", "progress", "outcome_pixels/c/0/0", "status/c/0")))

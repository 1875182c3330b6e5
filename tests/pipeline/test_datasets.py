"""Readers: masks by index, the remap of their values, and nearest resampling."""

import math
import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets import (
    Sample,
    SampleIndex,
    class_index,
    class_lookup,
    evenly_spaced,
    example_samples,
    read_mask,
    resize_nearest,
)
from pipeline.errors import DatasetError
from pipeline.files import file_digest

VALUES = np.array([[0, 8, 255], [8, 12, 0]], np.uint8)


def palette_image(values):
    mask = Image.fromarray(values)
    mask.putpalette([200, 10, 10] * 256)  # every index has the same colour: reading colours would lose the classes
    assert mask.mode == "P"
    return mask


def settings_with_values(make_settings):
    classes = ["background", {"name": "cat", "values": [8]}, {"name": "dog", "values": [12, 13]}]
    return make_settings(classes=classes).data


def test_a_palette_mask_is_read_by_index_whatever_its_colours(tmp_path, make_settings):
    palette_image(VALUES).save(tmp_path / "mask.png")
    read = read_mask(tmp_path / "mask.png", settings_with_values(make_settings))
    assert read.tolist() == [[0, 1, 255], [1, 2, 0]]
    assert read.dtype == np.uint8


def test_grey_and_palette_masks_read_alike(tmp_path, make_settings):
    data = settings_with_values(make_settings)
    Image.fromarray(VALUES).save(tmp_path / "grey.png")
    palette_image(VALUES).save(tmp_path / "palette.png")
    assert np.array_equal(read_mask(tmp_path / "grey.png", data), read_mask(tmp_path / "palette.png", data))


def test_a_colour_mask_is_refused(tmp_path, make_settings):
    Image.new("RGB", (3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(DatasetError, match=r"mode RGB\), expected an index mask"):
        read_mask(tmp_path / "mask.png", make_settings().data)


def test_several_values_become_one_class_and_the_rest_is_ignored(make_settings):
    lookup = class_lookup(settings_with_values(make_settings))
    assert lookup[[0, 8, 12, 13, 255, 99]].tolist() == [0, 1, 2, 2, 255, 255]


def test_nearest_takes_the_pixel_under_each_centre():
    array = np.array([[1, 2, 3, 4]])
    assert resize_nearest(array, (1, 2)).tolist() == [[2, 4]]
    assert resize_nearest(array, (2, 8)).tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]] * 2


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_nearest_agrees_with_exact_arithmetic(height, width, new_height, new_width):
    array = np.arange(height * width).reshape(height, width)
    half = Fraction(1, 2)
    rows = [math.floor((i + half) * height / new_height) for i in range(new_height)]
    columns = [math.floor((j + half) * width / new_width) for j in range(new_width)]
    assert resize_nearest(array, (new_height, new_width)).tolist() == [[array[i, j] for j in columns] for i in rows]


def test_examples_are_spread_over_the_unlabeled_images(tmp_path):
    samples = [Sample(str(i), f"{i}.png", None, "unlabeled") for i in range(10)]
    index = SampleIndex(tmp_path, (Sample("x", "x.png", "x.png", "labeled"), *samples))
    assert [sample.id for sample in example_samples(index, 3)] == ["0", "3", "6"]
    assert len(example_samples(index, 99)) == 10
    assert example_samples(index, 0) == []


@given(st.integers(0, 50), st.integers(1, 60))
def test_some_items_are_spread_over_all(total, most):
    places = evenly_spaced(range(total), most)
    assert len(set(places)) == len(places) == min(total, most)
    assert places == sorted(places)
    assert not places or (places[0] == 0 and max(np.diff([*places, total])) <= -(-total // len(places)))


@pytest.mark.parametrize(("num", "most", "expected"), [(3, 10, [0, 1, 2]), (10, 4, [0, 2, 5, 7]), (0, 4, [])])
def test_a_sample_is_evenly_spaced(num, most, expected):
    assert evenly_spaced(range(num), most) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_label_becomes_255_as_an_integer(dtype):
    index = class_index(np.array([[0, 254, np.nan]], dtype))
    assert (index.dtype, index.tolist()) == (np.uint8, [[0, 254, 255]])
    assert class_index(index).tolist() == [[0, 254, 255]]


@pytest.fixture
def one_image(tmp_path):
    """A list of one sample, whose image has been read."""
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    sample = Sample("a", "a.png", None, "unlabeled", 4, 6, file_digest(tmp_path / "a.png"))
    index = SampleIndex(tmp_path, (sample,), "snakemake all")
    assert not index.image(sample).any()
    return index, sample


def test_a_file_that_changes_between_two_reads_is_refused_whatever_its_size_and_time(one_image):
    index, sample = one_image
    path = index.root / sample.image
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(DatasetError, match=rf"{path} is not the file that prepare read .* run snakemake all$"):
        index.image(sample)


def test_a_file_is_hashed_once_by_a_process(one_image, monkeypatch):
    index, sample = one_image
    monkeypatch.setattr("pipeline.datasets.content_digest", None)  # whoever hashes a file fails
    assert not index.image(sample).any()
    with pytest.raises(TypeError):
        index.image(replace(sample, image_digest="0" * 16))
    os.utime(index.root / sample.image)
    with pytest.raises(TypeError):
        index.image(sample)

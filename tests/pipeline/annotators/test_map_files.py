"""Files of maps: probabilities and index masks are read as meant, and anything else is refused with its fix."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.annotators.map_files import ClassOfPixels, read_classes, read_confidence, read_probabilities
from pipeline.errors import AnnotatorError, DatasetError
from pipeline.settings import DataSettings

CLASSES = ["background", "cat", {"name": "dog", "values": [7, 8]}]
DATA = DataSettings(root="data", classes=CLASSES, background="background")
NO_BACKGROUND = DataSettings(root="data", classes=CLASSES)
PATH = Path("maps/a.npz")
GOOD = np.stack([np.full((2, 4), p, np.float32) for p in (0.5, 0.25, 0.25)])


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(*arrays):
    file = io.BytesIO()
    np.savez_compressed(file, *arrays)
    return file.getvalue()


def png(values):
    file = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("content", [npy(GOOD), npz(GOOD), npz(GOOD.astype(np.float16)), npy(GOOD.astype(float))])
def test_arrays_of_any_float_are_the_same_maps(content):
    read = read_probabilities(content, PATH, DATA, "one")
    assert read.size == (2, 4)
    assert read.maps.dtype == np.float32
    assert np.array_equal(read.maps, GOOD)
    assert np.array_equal(read.resized((4, 8)), GOOD.repeat(2, 1).repeat(2, 2))


def test_rounding_beyond_the_range_is_cut_off():
    maps = np.stack([np.full((1, 1), p, np.float32) for p in (1.0005, -0.0005, 0)])
    assert read_probabilities(npy(maps), PATH, DATA, "one").maps.ravel().tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(GOOD.transpose(1, 2, 0)), "has shape [2, 4, 3], expected [3, h, w], one map per class of data.classes: "
                                       "its classes are the last axis; write maps.transpose(2, 0, 1)"),
        (npy(GOOD[None]), "has shape [1, 3, 2, 4], expected [3, h, w], one map per class of data.classes; write "
                          "maps[0]"),
        (npy(GOOD[:2]), "has shape [2, 2, 4], expected [3, h, w], one map per class of data.classes; write the maps of "
                        "all classes, in the order of data.classes"),
        (npy(GOOD[:, :0]), "has shape [3, 0, 4], expected"),
        (npy(np.uint8(255 * GOOD)), "has values of uint8, expected floats in [0, 1]; write probabilities as"),
        (npy(np.log(GOOD)), "has values from -1.39 to -0.693, expected probabilities in [0, 1]; if they are logits, "
                            "write their softmax: scipy.special.softmax(maps, axis=0)"),
        (npy(100 * GOOD), "has values from 25 to 50, expected probabilities in [0, 1]; divide them by their largest "
                          "possible value, such as 100 or 255, or, if they are logits, write"),
        (npy(GOOD[0]), "has shape [2, 4], expected [3, h, w], one map per class of data.classes; write the maps of all "
                       "classes, or class indices as an index mask, ID.png"),
        (npy(np.where(GOOD == 0.5, np.nan, GOOD)), "has NaN or infinite values, expected"),
        (npy(np.full((3, 1, 1), 1e39)), "has NaN or infinite values, expected"),
        (npy(GOOD + GOOD), "has probabilities whose sum at a pixel is 2 to 2, expected 1, because background is one of "
                           "the classes; write maps / maps.sum(axis=0), or, if"),
        (npz(GOOD, GOOD), "has 2 arrays (arr_0, arr_1), expected one; write it with np.savez_compressed(path, maps)"),
        (npz(), "has no array, expected one"),
        (npz(GOOD)[:-30], "cannot be read by numpy"),
        (npy(GOOD)[:-4], "cannot be read by numpy"),
        (b"", "cannot be read by numpy"),
        (b"junk", "cannot be read by numpy"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused_with_what_to_write(content, message):
    with pytest.raises(AnnotatorError, match=re.escape(f"{PATH} {message}")) as error:
        read_probabilities(content, PATH, DATA, "one")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_floats_of_every_size_and_byte_order_are_read(dtype):
    assert np.abs(read_probabilities(npz(GOOD.astype(dtype)), PATH, DATA, "one").maps - GOOD).max() <= 1e-3


def test_pickled_objects_are_not_loaded():
    file = io.BytesIO()
    np.save(file, np.array([{"maps": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(AnnotatorError, match="cannot be read by numpy"):
        read_probabilities(file.getvalue(), PATH, DATA, "one")


def test_sums_are_not_checked_without_a_background_or_if_the_settings_allow_any():
    for data, sums in ((NO_BACKGROUND, "one"), (DATA, "any")):
        assert read_probabilities(npy(GOOD + GOOD), PATH, data, sums).maps[0, 0, 0] == 1


def test_a_confidence_is_the_probability_of_the_named_class():
    """Three classes: with confidence 0.8, each other class has 0.1; a void pixel has a third for every class."""
    classes = read_classes(png(np.array([[0, 7], [8, 255]], np.uint8)), PATH, DATA)
    assert classes.tolist() == [[0, 2], [2, 3]]
    eight = read_confidence(png(np.full((2, 2), 204, np.uint8)), PATH, (2, 2), DATA)
    sixteen = read_confidence(png(np.full((2, 2), 52428, np.uint16)), PATH, (2, 2), DATA)
    for confidence in (eight, sixteen):
        maps = ClassOfPixels(classes, confidence, 3).resized((2, 2))
        expected = [[[0.8, 0.1], [0.1, 1 / 3]], [[0.1, 0.1], [0.1, 1 / 3]], [[0.1, 0.8], [0.8, 1 / 3]]]
        assert np.allclose(maps, expected, atol=1e-6)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_maps_of_masks_are_a_distribution_at_every_pixel_and_size(num_classes, seed, size):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, num_classes + 1, (4, 5))
    confidence = rng.random((4, 5), np.float32)
    pixels = ClassOfPixels(classes, confidence, num_classes)
    maps = pixels.resized(size)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert np.allclose(maps.sum(axis=0), 1, atol=1e-5)
    is_sure = (confidence > 1 / num_classes + 1e-3) & (classes < num_classes)
    assert np.array_equal(pixels.resized((4, 5)).argmax(axis=0)[is_sure], classes[is_sure])


def test_masks_and_confidences_that_do_not_fit_are_refused():
    zeros = np.zeros((2, 3), np.uint8)
    with pytest.raises(AnnotatorError, match=r"a.npz has the values 2, 3, which neither data.classes nor"):
        read_classes(png(np.array([[2, 3, 0]], np.uint8)), PATH, DATA)
    with pytest.raises(DatasetError, match=r"a.npz has colours"):
        read_classes(png(np.random.default_rng(0).integers(0, 9, (2, 3, 3), np.uint8)), PATH, DATA)
    with pytest.raises(AnnotatorError, match=r"a.npz is 2 x 3 \(height x width\), its index mask is 3 x 2; write one"):
        read_confidence(png(zeros), PATH, (3, 2), DATA)
    with pytest.raises(AnnotatorError, match=r"not grey with 8 or 16 bits; write it as np.uint8\(255 \* confidence\)"):
        read_confidence(png(zeros.astype(bool)), PATH, (2, 3), DATA)

"""Palette PNGs: their values are the store's labels, their colours the classes', and a run can read them as masks."""

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from PIL import Image

from pipeline.datasets import read_mask
from pipeline.errors import DatasetError
from pipeline.exchange import export_labels
from pipeline.exchange.incoming import incoming_masks
from pipeline.palette import class_colours
from pipeline.settings import DataSettings

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DATA = DataSettings(classes=NAMES, background="background")


def read_masks(folder, data):
    return incoming_masks(folder, folder, "png", data, {})


@QUICK
@given(labels_and_sizes())
def test_values_are_the_labels_at_the_images_own_sizes(tmp_path_factory, case):
    labels, sizes = case
    folder = export_labels(write_label_store(tmp_path_factory.mktemp("run"), labels, sizes), "png").folder
    for i, size in enumerate(sizes):
        with Image.open(folder / f"im_{i}.png") as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.array(picture), at_own_size(labels[0, i], size))
        assert np.array_equal(read_mask(folder / f"im_{i}.png", DATA), at_own_size(labels[0, i], size))


@pytest.fixture
def exported(tmp_path):
    """One image of 2 x 3 pixels: background, cat, dog; newt, abstain, abstain."""
    labels = np.array([[[[0, 1, 2], [3, NAN, NAN]]]], np.float32)
    return export_labels(write_label_store(tmp_path, labels, [(2, 3)]), "png").folder


LABEL = np.array([[0, 1, 2], [3, 255, 255]], np.uint8)


def test_colours_are_those_of_the_classes_and_white_is_abstention(exported):
    colours = class_colours(4, 0)
    with Image.open(exported / "im_0.png") as picture:
        rgb = np.array(picture.convert("RGB"))
    assert np.array_equal(rgb.reshape(6, 3), [*colours, [255] * 3, [255] * 3])
    assert (exported / "classes.txt").read_text().split() == NAMES


def test_names_in_classes_txt_decide_what_a_value_means(exported):
    other = DataSettings(classes=["newt", "dog", "cat", "background"], background="background")
    (mask,) = read_masks(exported, other)
    assert mask.id == "im_0"
    assert mask.read((2, 3)).tolist() == [[3, 2, 1], [0, 255, 255]]


def test_without_names_the_runs_class_order_counts(exported):
    (exported / "classes.txt").unlink()
    (mask,) = read_masks(exported, DATA)
    assert np.array_equal(mask.read((2, 3)), LABEL)


def test_a_palette_that_a_painting_program_reordered_is_read_by_its_colours(exported):
    path = exported / "im_0.png"
    with Image.open(path) as picture:
        turned = picture.remap_palette(list(reversed(range(256))))
    assert turned.getpixel((0, 0)) != 0
    turned.save(path)
    (mask,) = read_masks(exported, DATA)
    assert np.array_equal(mask.read((2, 3)), LABEL)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_masks_painted_in_colours_are_read(exported, mode):
    path = exported / "im_0.png"
    with Image.open(path) as picture:
        painted = picture.convert(mode)
    painted.save(path)
    (mask,) = read_masks(exported, DATA)
    assert np.array_equal(mask.read((2, 3)), LABEL)


def test_grey_masks_are_read_by_their_values(exported):
    Image.fromarray(LABEL).save(exported / "im_0.png")
    (mask,) = read_masks(exported, DATA)
    assert np.array_equal(mask.read((2, 3)), LABEL)


def test_values_and_colours_that_stand_for_no_label_are_refused(exported):
    Image.fromarray(np.array([[0, 7, 9]], np.uint8)).save(exported / "im_0.png")
    Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)).save(exported / "im_1.png")
    grey, coloured = read_masks(exported, DATA)
    with pytest.raises(DatasetError, match=r"im_0.png has value 7, value 9, which stands for no label"):
        grey.read((1, 3))
    with pytest.raises(DatasetError, match=r"im_1.png has colour #010203, which stands for no label"):
        coloured.read((1, 1))


def test_a_name_that_the_run_does_not_have_is_refused_where_it_is_used(exported):
    (mask,) = read_masks(exported, DataSettings(classes=["background", "cat", "dog"]))
    with pytest.raises(DatasetError, match=r"im_0.png has pixels of 'newt', which is no class of the run"):
        mask.read((2, 3))


def test_a_mask_of_another_size_is_refused_before_it_is_decoded(exported):
    path = exported / "im_0.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (30_000).to_bytes(4, "big") * 2  # a header of 900 million pixels
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    (mask,) = read_masks(exported, DATA)
    with pytest.raises(DatasetError, match=r"im_0.png .*(30000 x 30000|900000000)"):
        mask.read((2, 3))


def test_a_truncated_file_is_named(exported):
    path = exported / "im_0.png"
    path.write_bytes(path.read_bytes()[:60])
    (mask,) = read_masks(exported, DATA)
    with pytest.raises(DatasetError, match=r"im_0.png cannot be read .*export it again"):
        mask.read((2, 3))

"""Masks that come back as pictures: in colours, as JPEG, and with names that end otherwise than their images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, DatasetError
from pipeline.exchange.incoming import incoming_masks
from pipeline.exchange.png import colours_of
from pipeline.settings import DataSettings

NAMES = ["background", "cat", "dog"]
RED, BLUE, BLACK, WHITE = (200, 10, 10), (0, 0, 255), (0, 0, 0), (255, 255, 255)
IMAGES = {"a": Path("images/a.jpg"), "a1": Path("images/a1.jpg"), "cam1__b": Path("images/cam1/b.jpg")}
SIZE = (32, 48)
LEFT, RIGHT = np.s_[:, :16], np.s_[:, 32:]


def paint(path, left, right, rest=BLACK, **options):
    """A mask of 32 x 48 in two colours, each on a third of the picture, and the rest."""
    pixels = np.full((*SIZE, 3), rest, np.uint8)
    pixels[LEFT], pixels[RIGHT] = left, right
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def labels(folder, table=None, name=None, **data):
    """The labels in a folder, by id of the image."""
    if table is not None:
        (folder.parent / "colours.csv").write_text(table)
    settings = DataSettings(**({"classes": NAMES, "background": "background"} | data))
    masks = incoming_masks(
        folder, folder, name, settings, IMAGES, folder.parent / "colours.csv" if table is not None else None
    )
    return {mask.id: mask.read(SIZE) for mask in masks}


def expected(left, right, rest=0):
    label = np.full(SIZE, rest, np.uint8)
    label[LEFT], label[RIGHT] = left, right
    return label


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_table_of_colours_says_which_class_a_colour_is(tmp_path, suffix, caplog):
    caplog.set_level("INFO")
    paint(tmp_path / f"masks/cam1/b_colour.{suffix}", RED, BLUE)
    (label,) = labels(tmp_path / "masks", "cat,200,10,10\nvoid,0,0,255\nbackground,0,0,0\n", subfolders=True).items()
    assert label[0] == "cam1__b"
    is_void = label[1] == 255
    assert is_void[RIGHT].all()
    rest = ~is_void | (expected(1, 255) == 255)
    assert np.array_equal(label[1][rest], expected(1, 255)[rest])
    assert (suffix == "jpg") == ("pixels are void: between two colours of a JPEG" in caplog.text)


def test_a_jpeg_without_the_colours_of_the_table_is_refused_when_it_is_read(tmp_path):
    paint(tmp_path / "masks/a.jpg", RED, BLUE)
    with pytest.raises(DatasetError, match=r"a.jpg: \d+ % of its pixels are near no colour of a class, e.g."):
        labels(tmp_path / "masks", "cat,200,10,10\nbackground,0,0,0\n")


def test_colours_that_init_took_as_classes_are_these_classes(tmp_path):
    paint(tmp_path / "masks/a.png", RED, BLUE)
    label = labels(tmp_path / "masks", classes=["background", "class #0000ff", "class #c80a0a"])
    assert np.array_equal(label["a"], expected(2, 1))


def test_colours_of_an_export_are_its_classes(tmp_path):
    background, cat, _, abstain = colours_of(3, 0)
    paint(tmp_path / "masks/a.png", cat, abstain, background)
    assert np.array_equal(labels(tmp_path / "masks")["a"], expected(1, 255))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_other_colours_are_proposed_as_a_table(tmp_path, suffix):
    paint(tmp_path / f"masks/a.{suffix}", WHITE, WHITE)
    with pytest.raises(DatasetError) as error:
        labels(tmp_path / "masks")
    assert "masks in colours that stand for no class of the run (background, cat, dog); write" in str(error.value)
    assert str(error.value).endswith("add --colours FILE:\n  background,0,0,0\n  class #ffffff,255,255,255")


def test_a_table_with_labels_that_are_no_class_is_refused(tmp_path):
    paint(tmp_path / "masks/a.png", RED, BLUE)
    with pytest.raises(DatasetError, match=r"a.png has pixels of 'cats', which is no class of the run; did you mean"):
        labels(tmp_path / "masks", "cats,200,10,10\ndog,0,0,255\nbackground,0,0,0\n")
    with pytest.raises(ConfigError, match=r"--colours is for masks that are pictures, but --from is coco; remove"):
        incoming_masks(tmp_path, tmp_path, "coco", DataSettings(classes=NAMES), IMAGES, tmp_path / "colours.csv")


def test_a_number_in_a_name_is_not_cut(tmp_path):
    paint(tmp_path / "masks/a10.png", *colours_of(3, 0)[:2], rest=colours_of(3, 0)[0])
    assert list(labels(tmp_path / "masks")) == ["a10"], "no mask of a1"


def paint_values(path, left, right, rest=0):
    values = np.full(SIZE, rest, np.uint8)
    values[LEFT], values[RIGHT] = left, right
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


BINARY = {"classes": [{"name": "background", "values": [0]}, {"name": "cat", "values": [255]}], "ignore_values": []}
SHIFTED = {"classes": [{"name": name, "values": [k + 1]} for k, name in enumerate(NAMES)], "ignore_values": [0, 255]}


def test_values_are_those_of_the_run_or_of_an_export_and_refused_if_they_may_be_both(tmp_path):
    paint_values(tmp_path / "masks/a.png", 255, 255)
    with pytest.raises(DatasetError, match=r"have values \(255\) that mean different classes .*--from masks if"):
        labels(tmp_path / "masks", **BINARY)
    assert np.array_equal(labels(tmp_path / "masks", name="masks", **BINARY)["a"], expected(1, 1))
    assert np.array_equal(labels(tmp_path / "masks", name="png", **BINARY)["a"], expected(255, 255))
    paint_values(tmp_path / "masks/a.png", 1, 3, 255)
    assert np.array_equal(labels(tmp_path / "masks", **SHIFTED)["a"], expected(0, 2, 255)), "an export has no 3"
    paint_values(tmp_path / "masks/a.png", 0, 1, 255)
    with pytest.raises(DatasetError, match=r"have values \(0, 1\) that mean different classes"):
        labels(tmp_path / "masks", **SHIFTED)
    assert np.array_equal(labels(tmp_path / "masks")["a"], expected(0, 1, 255)), "both are the same"

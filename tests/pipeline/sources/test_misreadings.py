"""Masks in another coding than the settings expect are detected over the whole set, and others are not suspected."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.run_file import load_settings
from pipeline.sources.misreadings import MASKS_TO_JUDGE, misreading
from pipeline.stages.prepare import prepare

CONFIG = Path(__file__).parents[3] / "config"
SHIFTED = {
    "data.classes": [f"thing {index}" for index in range(150)],
    "data.ignore_values": [255],
}


def data_of(run, **overrides):
    return load_settings(CONFIG / f"{run}.yaml", overrides).data


OFFICIAL_ADE, SHIFTED_ADE = data_of("ade20k"), data_of("ade20k", **SHIFTED)
LABEL_IDS, TRAIN_IDS = data_of("cityscapes"), data_of("cityscapes_trainids")


def sets_of(values):
    return st.lists(st.frozensets(st.sampled_from(values)), max_size=4)


@given(sets_of(range(151)))
def test_official_masks_of_ade20k_fit_the_run_file_and_are_detected_by_150_where_shifted_ones_are_expected(masks):
    assert misreading(masks, OFFICIAL_ADE) is None
    assert (misreading(masks, SHIFTED_ADE) is not None) == any(150 in mask for mask in masks)


@given(sets_of([*range(150), 255]))
def test_shifted_masks_of_ade20k_are_detected_by_255(masks):
    assert misreading(masks, SHIFTED_ADE) is None
    assert (misreading(masks, OFFICIAL_ADE) is not None) == any(255 in mask for mask in masks)


@given(sets_of(range(34)), sets_of([*range(19), 255]))
def test_label_ids_and_train_ids_of_cityscapes_are_distinguished(label_ids, train_ids):
    assert misreading(label_ids, LABEL_IDS) is None
    assert misreading(train_ids, TRAIN_IDS) is None
    assert (misreading(train_ids, LABEL_IDS) is not None) == any(255 in mask for mask in train_ids)
    assert (misreading(label_ids, TRAIN_IDS) is not None) == any(max(mask, default=0) > 18 for mask in label_ids)


def test_many_masks_without_a_single_ignored_pixel_are_not_shifted_ones():
    masks = [frozenset({0, 5, 17})] * MASKS_TO_JUDGE
    assert "none of 100 masks has the value 255" in misreading(masks, SHIFTED_ADE)
    assert misreading(masks[1:], SHIFTED_ADE) is None


def test_other_data_is_not_suspected():
    assert misreading([frozenset(range(256))], data_of("camvid")) is None


@pytest.fixture
def tree(tmp_path):
    """ADE20K's tree with three small masks; returns a function that writes their values."""

    def write(values):
        for folder, name in (("training", "t1"), ("training", "t2"), ("training", "t3"), ("validation", "v")):
            for kind in ("images", "annotations"):
                (tmp_path / kind / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (len(values), 1)).save(tmp_path / f"images/{folder}/{name}.jpg")
            Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"annotations/{folder}/{name}.png")
        lists = {"data.splits.labeled": None, "data.splits.unlabeled": None, "data.splits.num_labeled": 2}
        return {"data.root": str(tmp_path), "results": str(tmp_path / "results")} | lists

    return write


def test_prepare_refuses_shifted_masks_with_one_line(tree):
    settings = load_settings(CONFIG / "ade20k.yaml", tree([0, 149, 255]))
    with pytest.raises(DatasetError) as error:
        prepare(settings)
    first, line = str(error.value).splitlines()
    assert first.startswith("1 problem with the data set")
    assert "the masks have the value 255: their coding is shifted by one" in line
    assert "ignore_values: [255]" in line
    assert not settings.folder.exists()


def test_prepare_refuses_official_masks_where_shifted_ones_are_expected(tree):
    settings = load_settings(CONFIG / "ade20k.yaml", tree([0, 1, 150]) | SHIFTED)
    with pytest.raises(DatasetError, match=r"value 150: their coding is official .*values 1 to 150 and ignore"):
        prepare(settings)


def test_prepare_takes_both_where_they_are_expected(tree):
    official = prepare(load_settings(CONFIG / "ade20k.yaml", tree([0, 1, 150])))
    shifted = prepare(load_settings(CONFIG / "ade20k.yaml", tree([255, 0, 149]) | SHIFTED))
    pixels = [list(facts["labeled_pixels_per_class"].values()) for facts in (official, shifted)]
    assert pixels[0] == pixels[1] == [2] + [0] * 148 + [2]

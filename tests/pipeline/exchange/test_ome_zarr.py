"""OME-Zarr 0.5: valid by the standard's models, and the labels, colours and names are the store's."""

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from ome_zarr_models.v05 import Image as ImageModel
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels
from PIL import Image

from pipeline.exchange import export_labels
from pipeline.exchange.ome_zarr import label_ids, level_sizes
from pipeline.palette import class_colours

QUICK = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(labels_and_sizes(max_images=2))
def test_the_stores_are_valid_and_contain_images_and_labels(tmp_path_factory, case):
    labels, sizes = case
    run = tmp_path_factory.mktemp("run")
    folder = export_labels(write_label_store(run, labels, sizes), "ome-zarr").folder
    for i, size in enumerate(sizes):
        group = zarr.open_group(folder / f"im_{i}.zarr", mode="r")
        ImageModel.from_zarr(group)
        Labels.from_zarr(group["labels"])
        ImageLabel.from_zarr(group["labels/pseudolabels"])
        with Image.open(run / f"images/im_{i}.png") as photograph:
            assert np.array_equal(np.moveaxis(group["0"][:], 0, -1), np.array(photograph))
        ids = group["labels/pseudolabels/0"][:]
        assert np.array_equal(np.where(ids == 0, 255, ids - 1), at_own_size(labels[0, i], size))


@pytest.fixture
def group(tmp_path):
    """A wide photograph of 100 x 600; every second column of its 200 columns of labels is newt, the others abstain."""
    labels = np.full((1, 1, 4, 200), NAN, np.float32)
    labels[..., ::2] = 3
    folder = export_labels(write_label_store(tmp_path, labels, [(100, 600)]), "ome-zarr").folder
    return zarr.open_group(folder / "im_0.zarr", mode="r")


def test_every_id_has_its_name_and_colour_and_abstention_is_transparent(group):
    legend = group["labels/pseudolabels"].attrs["ome"]["image-label"]
    assert [(row["label-value"], row["class"]) for row in legend["properties"]] == list(enumerate(["abstain", *NAMES]))
    colours = {row["label-value"]: row["rgba"] for row in legend["colors"]}
    assert colours[0][3] == 0
    assert [colours[k + 1] for k in range(4)] == [[*colour, 255] for colour in class_colours(4, 0).tolist()]


def test_levels_halve_until_they_are_small_and_labels_stay_labels(group):
    levels = [group[f"labels/pseudolabels/{n}"][:] for n in range(3)]
    assert [level.shape for level in levels] == [(100, 600), (50, 300), (25, 150)]
    assert all(set(np.unique(level)) == {0, 4} for level in levels)
    assert np.array_equal(levels[1], levels[0][1::2, 1::2])
    assert "3" not in group
    scales = [d["coordinateTransformations"] for d in group.attrs["ome"]["multiscales"][0]["datasets"]]
    assert scales[1] == [
        {"type": "scale", "scale": [1.0, 2.0, 2.0]},
        {"type": "translation", "translation": [0.0, 0.5, 0.5]},
    ]


def test_viewers_find_the_labels_and_the_channels_of_the_image(group):
    labels = dict(group["labels"].attrs)
    assert labels["ome"]["labels"] == labels["labels"] == ["pseudolabels"]
    assert [channel["color"] for channel in group.attrs["ome"]["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]


def test_there_are_two_levels_even_of_a_pixel():
    assert level_sizes(1, 1) == [(1, 1), (1, 1)]
    assert level_sizes(3, 513) == [(3, 513), (2, 257), (1, 129)]


def test_the_last_of_255_classes_has_an_id_too():
    assert label_ids(np.array([[0, 254, 255]], np.uint8)).tolist() == [[1, 255, 0]]

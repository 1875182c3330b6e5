"""COCO: pycocotools reads back the store's labels; polygons, crowds and backgrounds are read as tools write them."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from pycocotools.coco import COCO

from pipeline.errors import DatasetError
from pipeline.exchange import export_labels
from pipeline.exchange.coco import class_shapes
from pipeline.exchange.incoming import incoming_masks
from pipeline.settings import DataSettings
from pipeline.store import open_labels

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BEST_IS_DOG = 4  # seed whose planes have the dog best in the last pixel
DATA = DataSettings(classes=NAMES, background="background")


def read_masks(folder, data):
    return incoming_masks(folder, folder, "coco", data, {})


@QUICK
@given(labels_and_sizes())
def test_the_standard_reader_and_ours_give_back_the_labels(tmp_path_factory, case):
    labels, sizes = case
    folder = export_labels(write_label_store(tmp_path_factory.mktemp("run"), labels, sizes), "coco").folder
    coco = COCO(folder / "annotations.json")
    ours = {mask.id: mask.read(size) for mask, size in zip(read_masks(folder, DATA), sizes, strict=True)}
    assert {category["id"]: category["name"] for category in coco.cats.values()} == dict(enumerate(NAMES, 1))
    for i, size in enumerate(sizes):
        image = coco.imgs[i + 1]
        assert (image["file_name"], image["height"], image["width"]) == (f"images/im_{i}.png", *size)
        found = np.full(size, 255, np.uint8)
        for annotation in coco.imgToAnns[i + 1]:
            shape = coco.annToMask(annotation).astype(bool)
            assert (found[shape] == 255).all(), "no pixel is in two shapes"
            found[shape] = annotation["category_id"] - 1
            rows, columns = np.nonzero(shape)
            assert annotation["area"] == shape.sum()
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
        assert np.array_equal(found, at_own_size(labels[0, i], size))
        assert np.array_equal(ours[f"im_{i}"], found)


def test_the_score_is_the_mean_probability_of_the_classs_pixels():
    label = np.array([[1, 1, 2, 255]], np.uint8)
    cat, dog = class_shapes(label, np.array([[0.5, 0.75, NAN, NAN]], np.float32))
    assert (cat["category_id"], cat["score"], cat["area"]) == (2, 0.625, 2)
    assert dog["category_id"] == 3
    assert "score" not in dog, "nothing is known of its only pixel"


def test_scores_come_from_the_planes_of_the_store(tmp_path):
    path = write_label_store(tmp_path, np.array([[[[0, 0], [NAN, 2]]]], np.float32), [(2, 2)], seed=BEST_IS_DOG)
    planes = open_labels(path).planes(0)
    assert planes.best_foreground[1, 1] == 2
    folder = export_labels(path, "coco").folder
    background, dog = json.loads((folder / "annotations.json").read_text())["annotations"]
    assert background["score"] == pytest.approx(planes.p_background[0].mean())
    assert dog["score"] == pytest.approx(planes.p_foreground[1, 1])


def write_tool_file(folder, annotations, names=("cat", "dog")):
    """A file as an annotation tool writes it: one image of 4 x 6, polygons and masks."""
    content = {
        "images": [{"id": 9, "file_name": "shots/im_0.jpg", "height": 4, "width": 6}],
        "categories": [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": 9, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_default.json").write_text(json.dumps(content))


LEFT_HALF = {"category_id": 10, "segmentation": [[0, 0, 3, 0, 3, 4, 0, 4]]}
CORNER = {"category_id": 20, "segmentation": {"size": [4, 6], "counts": [0, 2, 22]}, "iscrowd": 1}


def test_without_a_category_for_background_uncovered_pixels_are_background(tmp_path, caplog):
    caplog.set_level("INFO")
    write_tool_file(tmp_path, [LEFT_HALF, CORNER])
    (mask,) = read_masks(tmp_path, DATA)
    expected = np.array([[2, 1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2)
    assert mask.id == "im_0"
    assert np.array_equal(mask.read((4, 6)), expected), "the smaller shape wins, and crowds are of their category"
    assert "im_0.jpg: 2 pixels are in outlines of several labels: they belong to the smallest one" in caplog.text


def test_with_a_category_for_background_uncovered_pixels_have_no_label(tmp_path):
    write_tool_file(tmp_path, [LEFT_HALF], names=("cat", "background", "abstain"))
    (mask,) = read_masks(tmp_path, DATA)
    assert np.array_equal(mask.read((4, 6)), np.array([[1, 1, 1, 255, 255, 255]] * 4))


def test_a_run_without_background_ignores_uncovered_pixels(tmp_path):
    write_tool_file(tmp_path, [LEFT_HALF])
    (mask,) = read_masks(tmp_path, DataSettings(classes=["dog", "cat"]))
    assert np.array_equal(mask.read((4, 6)), np.array([[1, 1, 1, 255, 255, 255]] * 4))


def test_a_category_that_the_run_does_not_have_is_refused_where_it_is_used(tmp_path):
    write_tool_file(tmp_path, [LEFT_HALF], names=("caat", "zebra"))
    (mask,) = read_masks(tmp_path, DATA)
    with pytest.raises(
        DatasetError, match=r"im_0.jpg has pixels of 'caat', which is no class of the run; did you mean"
    ):
        mask.read((4, 6))


def test_an_outline_of_another_size_than_its_image_is_refused_before_it_is_drawn(tmp_path):
    write_tool_file(tmp_path, [LEFT_HALF])
    (mask,) = read_masks(tmp_path, DATA)
    with pytest.raises(DatasetError, match=r"im_0.jpg is 6 x 4, but its image is 4 x 6; draw it on the upright image"):
        mask.read((6, 4))


def test_a_box_without_outline_is_counted_and_has_no_label(tmp_path, caplog):
    box = {"category_id": 20, "segmentation": [], "bbox": [4, 0, 1, 2]}
    write_tool_file(tmp_path, [LEFT_HALF, box])
    (mask,) = read_masks(tmp_path, DATA)
    expected = np.array([[1, 1, 1, 0, 255, 0]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2)
    assert np.array_equal(mask.read((4, 6)), expected)
    assert "1 annotations have a box but no outline: 1; the pixels in their boxes get no label" in caplog.text


@pytest.mark.parametrize("polygon", [[1, 1, 4, 1, 5, 1], [-5, -5, -1, -5, -1, -1], [1, 1, 3, 3]])
def test_an_image_is_not_background_because_its_only_outline_covers_no_pixel(tmp_path, polygon, caplog):
    flat = {"category_id": 10, "segmentation": [polygon]}
    write_tool_file(tmp_path, [flat])
    (mask,) = read_masks(tmp_path, DATA)
    with pytest.raises(DatasetError, match=r"im_0.jpg: no outline covers a pixel"):
        mask.read((4, 6))
    (tmp_path / "annotations/instances_default.json").unlink()
    (tmp_path / "annotations").rmdir()
    write_tool_file(tmp_path, [LEFT_HALF, flat])
    (mask,) = read_masks(tmp_path, DATA)
    assert np.array_equal(mask.read((4, 6)), np.array([[1, 1, 1, 0, 0, 0]] * 4))
    assert "1 outlines cover no pixel, because they are flat, tiny or outside their image: annotation 1" in caplog.text


def test_an_image_without_outlines_is_marked(tmp_path):
    write_tool_file(tmp_path, [])
    assert [mask.is_annotated for mask in read_masks(tmp_path, DATA)] == [False]


def test_a_broken_json_is_named(tmp_path):
    (tmp_path / "half.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"half.json is not valid JSON"):
        read_masks(tmp_path, DATA)

"""COCO's instances: classes, overlaps, crowds, and resuming after an interruption."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from killed_writer import leave_half_written
from PIL import Image

from pipeline.__main__ import main
from pipeline.errors import DatasetError
from pipeline.sources.convert_masks import convert_coco

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
PERSON, DOG, TOOTHBRUSH = 1, 2, 3


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, category, segmentation, image=7, crowd=0):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


def write(root, annotations, name="instances_train2017", images=None, categories=CATEGORIES):
    images = images or [{"id": 7, "file_name": "000000000007.jpg", "height": 6, "width": 8}]
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"annotations/{name}.json").write_text(json.dumps(content))


def masks_of(root):
    convert_coco(root, keep_unannotated=True)
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((root / "masks").glob("*.png"))}


def test_classes_are_the_categories_in_the_order_of_their_ids(tmp_path):
    shapes = [(1, 0), (18, 2), (90, 4)]
    write(tmp_path, [annotation(i, c, rectangle(x, 0, x + 2, 6)) for i, (c, x) in enumerate(shapes)])
    row = [PERSON, PERSON, DOG, DOG, TOOTHBRUSH, TOOTHBRUSH, 0, 0]
    assert masks_of(tmp_path)["000000000007"].tolist() == [row] * 6


def test_the_smaller_of_two_objects_is_in_front_in_any_order(tmp_path):
    listed = [annotation(5, 18, rectangle(2, 2, 4, 4)), annotation(6, 1, rectangle(0, 0, 8, 6))]
    found = []
    for number, annotations in enumerate((listed, listed[::-1])):
        root = tmp_path / str(number)
        root.mkdir()
        write(root, annotations)
        found.append(masks_of(root)["000000000007"])
    assert (found[0] == found[1]).all()
    assert (found[0] == DOG).sum() == 4
    assert (found[0] == PERSON).sum() == 44


def test_a_crowd_is_ignored_except_where_an_object_is(tmp_path):
    crowd = {"size": [6, 8], "counts": [0, 12, 36]}  # the two first columns
    annotations = [annotation(1, 1, rectangle(1, 0, 3, 6)), annotation(2, 1, crowd, crowd=1)]
    write(tmp_path, annotations)
    assert masks_of(tmp_path)["000000000007"].tolist() == [[255, PERSON, PERSON, 0, 0, 0, 0, 0]] * 6


def test_every_image_of_every_file_gets_a_mask_also_those_without_objects(tmp_path):
    write(tmp_path, [annotation(1, 18, {"size": [6, 8], "counts": "0`1"})])  # 0 outside, 48 inside
    write(tmp_path, [], "instances_val2017", [{"id": 7, "file_name": "val/9.jpg", "height": 2, "width": 3}])
    masks = masks_of(tmp_path)
    assert (masks["000000000007"] == DOG).all()
    assert masks["9"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_complete_masks_are_kept_and_partial_ones_are_written_again(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 2} for i in range(3)]
    write(tmp_path, [], images=images)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/0.png").write_bytes(b"from before")
    (left,) = leave_half_written(tmp_path / "masks/1.png")
    convert_coco(tmp_path, keep_unannotated=True)
    assert (tmp_path / "masks/0.png").read_bytes() == b"from before"
    assert Image.open(tmp_path / "masks/1.png").size == (2, 2)
    assert (tmp_path / "masks/2.png").is_file()
    assert not left.exists()


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([annotation(3, 1, [])], "annotation 3 has no segmentation and the bbox null"),
        (
            [annotation(4, 1, {"size": [6, 8], "counts": [1]})],
            "image .*: annotation 4 cannot be drawn.*covers 1 pixels",
        ),
        ([annotation(5, 2, rectangle(0, 0, 1, 1))], "annotation 5 has category_id 2, which is not in categories"),
    ],
)
def test_an_annotation_that_cannot_be_drawn_is_named(tmp_path, annotations, message):
    write(tmp_path, annotations)
    with pytest.raises(DatasetError, match=message):
        convert_coco(tmp_path)


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no .*instances_\*.json; unpack annotations_trainval2017.zip"):
        convert_coco(tmp_path)
    write(tmp_path, [])
    path = tmp_path / "annotations/instances_train2017.json"
    path.write_text('{"images": []}')
    with pytest.raises(DatasetError, match="has no list of annotations and no list of categories"):
        convert_coco(tmp_path)
    path.write_text("[1, 2")
    with pytest.raises(DatasetError, match="is not valid JSON"):
        convert_coco(tmp_path)
    write(tmp_path, [], categories=[{"id": i, "name": f"c{i}"} for i in range(255)])
    with pytest.raises(DatasetError, match="has 255 categories, but an 8-bit mask has only 254"):
        convert_coco(tmp_path)


def test_two_images_whose_masks_would_have_one_name_are_refused(tmp_path):
    images = [{"id": i, "file_name": f"{i}/a.jpg", "height": 2, "width": 2} for i in range(2)]
    write(tmp_path, [], images=images)
    with pytest.raises(DatasetError, match=r"masks of 1/a.jpg and of .*0/a.jpg would have the same file name"):
        convert_coco(tmp_path)


def test_images_without_outlines_are_left_out_and_named_unless_they_are_background(tmp_path, caplog):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 6, "width": 8} for i in range(3)]
    box = annotation(2, 1, [], image=1) | {"bbox": [0, 0, 2, 6]}
    write(tmp_path, [annotation(1, 1, rectangle(0, 0, 8, 6), image=0), box], images=images)
    convert_coco(tmp_path)
    assert [path.stem for path in (tmp_path / "masks").iterdir()] == ["0"]
    assert "2 of 3 images have no annotation with an outline and got no mask, e.g. 1.jpg" in caplog.text
    assert "1 annotations have a box but no outline: 2;" in caplog.text
    masks = masks_of(tmp_path)
    assert masks["1"].tolist() == [[255, 255, 0, 0, 0, 0, 0, 0]] * 6
    assert not masks["2"].any()


def test_an_outline_that_covers_no_pixel_is_named(tmp_path, caplog):
    write(tmp_path, [annotation(5, 1, [[1, 1, 4, 1, 6, 1]]), annotation(6, 1, rectangle(0, 0, 8, 6))])
    convert_coco(tmp_path)
    assert "1 outlines cover no pixel, because they are flat, tiny or outside their image: annotation 5" in caplog.text


def test_sound_images_are_kept_when_a_shape_of_another_cannot_be_drawn(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 6, "width": 8} for i in range(2)]
    shapes = [annotation(1, 1, rectangle(0, 0, 1, 1), image=0), annotation(2, 1, [[1, 2, 3]], image=1)]
    write(tmp_path, shapes, images=images)
    with pytest.raises(DatasetError, match=r"has 1 problem: image '1.jpg': annotation 2 cannot be drawn: its polygon"):
        convert_coco(tmp_path)
    assert [path.stem for path in (tmp_path / "masks").iterdir()] == ["0"]


def test_a_file_in_place_of_the_masks_is_named(tmp_path):
    write(tmp_path, [])
    (tmp_path / "masks").touch()
    with pytest.raises(DatasetError, match=r"masks is a file, expected the folder of the masks; rename it"):
        convert_coco(tmp_path)


def test_the_command_prints_the_settings_of_a_run_file(tmp_path):
    write(tmp_path, [])
    result = CliRunner().invoke(main, ["convert-coco", str(tmp_path)])
    assert result.exit_code == 0
    assert "data: {layout: coco, root:" in result.output
    result = CliRunner().invoke(main, ["convert-coco", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert "error: no " in result.output

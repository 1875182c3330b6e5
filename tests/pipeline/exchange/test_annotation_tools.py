"""LabelMe, Label Studio and FiftyOne: our readers and small ones of their formats give back every pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from PIL import Image, ImageDraw

from pipeline.errors import StoreError
from pipeline.exchange import export_labels
from pipeline.exchange.incoming import incoming_masks
from pipeline.exchange.label_studio import brush_stroke
from pipeline.settings import DataSettings
from pipeline.sources.annotations.label_studio import decode_brush

QUICK = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DATA = DataSettings(classes=NAMES, background="background")


def imported(source, format_name, sizes):
    """The labels of a source by id, as `import-masks` reads them."""
    ids = {f"im_{i}": Path(f"im_{i}.png") for i in range(len(sizes))}
    masks = incoming_masks(source, source, format_name, DATA, ids)
    return {mask.id: mask.read(sizes[int(mask.id.removeprefix("im_"))]) for mask in masks}


@QUICK
@given(labels_and_sizes(max_images=2))
def test_labelmes_polygons_are_the_labels_and_abstained_regions_are_polygons_too(tmp_path_factory, case):
    labels, sizes = case
    run = tmp_path_factory.mktemp("run")
    folder = export_labels(write_label_store(run, labels, sizes), "labelme").folder
    names = (folder / "labels.txt").read_text().splitlines()
    assert names == ["__ignore__", *NAMES]
    ours = imported(folder, "labelme", sizes)
    for i, size in enumerate(sizes):
        content = json.loads((folder / f"im_{i}.json").read_text())
        assert (content["imageHeight"], content["imageWidth"]) == size
        assert (folder / content["imagePath"]).read_bytes() == (run / f"images/im_{i}.png").read_bytes()
        picture = Image.new("L", (size[1], size[0]), 99)  # LabelMe draws shapes with Pillow, one after the other
        for shape in content["shapes"]:
            value = (names.index(shape["label"]) - 1) % 256
            ImageDraw.Draw(picture).polygon([tuple(point) for point in shape["points"]], value, value)
        expected = at_own_size(labels[0, i], size)
        assert np.array_equal(np.array(picture), expected)
        assert np.array_equal(ours[f"im_{i}"], expected)


@pytest.mark.parametrize(("format_name", "taken"), [("labelme", "__ignore__"), ("label-studio", "abstain")])
def test_a_class_with_the_name_of_no_label_is_refused(tmp_path, format_name, taken):
    path = write_label_store(tmp_path, np.zeros((1, 1, 1, 1), np.float32), [(1, 1)], names=["background", taken])
    with pytest.raises(StoreError, match=rf"class .{taken}. cannot be exported to Label.*; rename it in data"):
        export_labels(path, format_name)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_brush_stroke_is_decoded_to_its_mask(mask):
    values = decode_brush(brush_stroke(mask), mask.size * 4).reshape(*mask.shape, 4)
    assert np.array_equal(values, np.repeat(mask[..., None], 4, axis=2) * np.uint8(255))


def test_a_run_that_is_longer_than_a_length_can_say_is_divided():
    mask = np.zeros((150, 300), bool)
    mask[-1, -1] = True
    stroke = brush_stroke(mask)
    assert len(stroke) < 32, "three runs: two of zeros and one of ones"
    assert np.array_equal(decode_brush(stroke, mask.size * 4)[::4].reshape(mask.shape) > 0, mask)


def test_label_studios_tasks_come_back_as_the_labels_when_a_person_accepts_them(tmp_path):
    labels = np.array([[[[0, 1, NAN]], [[3, 2, 2]]]], np.float32)
    sizes = [(2, 3), (1, 6)]
    folder = export_labels(
        write_label_store(tmp_path, labels, sizes, names=["background", "a<b", "dog", "ä"]), "label-studio"
    ).folder
    tasks = json.loads((folder / "tasks.json").read_text())
    assert tasks[0]["data"] == {"image": "/data/local-files/?d=images/im_0.png", "id": "im_0"}
    assert tasks[0]["predictions"][0]["score"] == 2 / 3
    assert (folder / "images/im_1.png").is_symlink()
    interface = (folder / "interface.xml").read_text()
    assert interface.count("<Label value=") == 4 + 1
    assert '<Label value="a&lt;b" background="#' in interface
    accepted = [{**task, "annotations": task["predictions"]} for task in tasks]
    (tmp_path / "project.json").write_text(json.dumps(accepted).replace("a<b", "cat").replace("\\u00e4", "newt"))
    found = imported(tmp_path / "project.json", "label-studio", sizes)
    assert found["im_0"].tolist() == [[0, 1, 255]] * 2
    assert found["im_1"].tolist() == [[3, 3, 2, 2, 2, 2]]


def test_fiftyones_masks_leave_zero_to_pixels_without_a_label(tmp_path):
    labels = np.array([[[[0, 3, NAN, NAN]]]], np.float32)
    folder = export_labels(write_label_store(tmp_path, labels, [(1, 4)]), "fiftyone", copies_images=True).folder
    with Image.open(folder / "labels/im_0.png") as picture:
        assert np.array(picture).tolist() == [[1, 4, 0, 0]]
    facts = json.loads((folder / "classes.json").read_text())
    assert facts["mask_targets"] == {str(k): name for k, name in enumerate(NAMES, 1)}
    assert facts["keep_rate"] == {"im_0": 0.5}
    assert (folder / "data/im_0.png").read_bytes() == (tmp_path / "images/im_0.png").read_bytes()
    compile((folder / "load.py").read_text(), "load.py", "exec")

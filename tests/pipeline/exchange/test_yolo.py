"""YOLO: the outlines give back every pixel; background and abstained pixels are outside all of them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from PIL import Image, ImageDraw

from pipeline.errors import DatasetError
from pipeline.exchange import export_labels
from pipeline.exchange.exported import exported_digests, label_digest
from pipeline.exchange.incoming import incoming_masks
from pipeline.exchange.yolo import lines
from pipeline.settings import DataSettings

QUICK = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def drawn(text, height, width):
    """uint8 [H, W] of a file's lines: number of the class, 255 outside; drawn as Ultralytics does, on whole pixels."""
    picture = Image.new("L", (width, height), 255)
    for line in text.splitlines():
        number, *values = line.split(" ")
        corners = np.array(values, np.float32).reshape(-1, 2)
        assert ((corners >= 0) & (corners <= 1)).all()
        points = (corners * np.array([width, height], np.float32)).astype(np.int32)
        ImageDraw.Draw(picture).polygon(list(map(tuple, points.tolist())), int(number), int(number))
    return np.array(picture)


@QUICK
@given(labels_and_sizes(max_images=2))
def test_a_reader_gives_back_images_and_labels(tmp_path_factory, case):
    labels, sizes = case
    run = tmp_path_factory.mktemp("run")
    folder = export_labels(write_label_store(run, labels, sizes), "yolo").folder
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == dict(enumerate(NAMES[1:]))
    for i, size in enumerate(sizes):
        expected = at_own_size(labels[0, i], size)
        expected = np.where(np.isin(expected, (0, 255)), 255, expected - 1)
        text = (folder / f"labels/train/im_{i}.txt").read_text()
        assert np.array_equal(drawn(text, *size), expected)
        image = folder / f"images/train/im_{i}.png"
        assert image.is_symlink()
        assert image.read_bytes() == (run / f"images/im_{i}.png").read_bytes()


def test_pixels_without_a_label_are_counted_and_their_export_is_refused_as_masks(tmp_path):
    label = np.array([[0, 1, 2], [3, NAN, NAN]], np.float32)
    export = export_labels(write_label_store(tmp_path, label[None, None], [(2, 3)]), "yolo")
    assert export.summary().endswith(
        "\n2 of 6 pixels of the labels (33.3 %) have no class: background, because YOLO has no other pixels outside "
        "all outlines; do not read these outlines as masks"
    )
    data, images = DataSettings(classes=NAMES, background=NAMES[0]), {"im_0": Path("im_0.png")}
    with pytest.raises(DatasetError, match=r"yolo is an export of pseudo-labels, in which 2 pixels without a label .*"):
        incoming_masks(export.folder, export.folder, None, data, images)
    (export.folder / "provenance.json").unlink()  # as if another program had written the outlines again
    (mask,) = incoming_masks(export.folder, export.folder, None, data, images)
    assert mask.read((2, 3)).tolist() == [[0, 1, 2], [3, 0, 0]]
    assert [label_digest(mask.read((2, 3)))] == exported_digests(tmp_path)["im_0"], "recognised as unchanged"


def test_without_a_background_all_classes_have_outlines():
    label = np.array([[0, 1, 255]], np.uint8)
    assert [line[0] for line in lines(label, None)] == ["0", "1"]
    assert [line[0] for line in lines(label, 0)] == ["0"]
    assert [line[0] for line in lines(label, 1)] == ["0"]

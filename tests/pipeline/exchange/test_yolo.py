"""YOLO: the outlines give back every pixel; background and abstained pixels are outside all of them."""

import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, at_own_size, labels_and_sizes, write_label_store
from PIL import Image, ImageDraw

from pipeline.exchange import export_labels
from pipeline.exchange.yolo import lines

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


def test_without_a_background_all_classes_have_outlines():
    label = np.array([[0, 1, 255]], np.uint8)
    assert [line[0] for line in lines(label, None)] == ["0", "1"]
    assert [line[0] for line in lines(label, 0)] == ["0"]
    assert [line[0] for line in lines(label, 1)] == ["0"]

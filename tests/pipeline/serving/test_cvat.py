"""CVAT's own driver accepts what the function returns, and its masks are the exported labels."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from cvat_sdk.auto_annotation import annotate_task, driver
from cvat_sdk.masks import decode_mask
from PIL import Image, ImageDraw

from pipeline.errors import StoreError
from pipeline.serving.cvat import create

HEIGHT, WIDTH = 24, 32


def task_of(exported, names):
    """A task of a server: its labels, and its frames, read by the driver in place of a download."""
    frames = [
        SimpleNamespace(
            frame_name=name, frame_index=i, media=SimpleNamespace(load_image=lambda: Image.new("RGB", (WIDTH, HEIGHT)))
        )
        for i, name in enumerate(names)
    ]
    labels = [
        SimpleNamespace(name=n, id=70 + k, type="any", attributes=[], sublabels=[])
        for k, n in enumerate(exported.class_names)
    ]
    return SimpleNamespace(samples=frames, labels=labels)


def annotated(monkeypatch, task, function, **options):
    """Shapes that the driver uploads."""
    uploads = []
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: task)
    api = SimpleNamespace(
        partial_update_annotations=lambda *_, patched_labeled_data_request: uploads.append(patched_labeled_data_request)
    )
    client = SimpleNamespace(logger=logging.getLogger("cvat"), tasks=SimpleNamespace(api=api))
    annotate_task(client, 1, function, **options)
    return uploads[0].shapes


def test_the_masks_of_a_task_are_the_labels(monkeypatch, run_file, exported):
    names = [f"images/{sample.id}.png" for sample in exported.samples]
    shapes = annotated(monkeypatch, task_of(exported, names), create(str(run_file)))
    for index in range(len(names)):
        label = exported.label(index)
        found = np.full(label.shape, 255)
        for shape in (shape for shape in shapes if shape.frame == index):
            mask = decode_mask(shape.points, image_width=WIDTH, image_height=HEIGHT)
            assert (found[mask] == 255).all()
            found[mask] = shape.label_id - 70
        assert np.array_equal(found, np.where(label == exported.background, 255, label))
    assert {shape.type.value for shape in shapes} == {"mask"}


def test_polygons_that_are_asked_for_give_the_same_pixels(monkeypatch, run_file, exported):
    shapes = annotated(
        monkeypatch, task_of(exported, [exported.samples[0].image]), create(str(run_file)), conv_mask_to_poly=True
    )
    picture = Image.new("L", (WIDTH, HEIGHT), 255)
    for shape in shapes:
        class_index = shape.label_id - 70
        ImageDraw.Draw(picture).polygon(shape.points, class_index, class_index)
    label = exported.label(0)
    expected = np.where(label == exported.background, 255, label)
    assert {shape.type.value for shape in shapes} == {"polygon"}
    assert np.array_equal(picture, expected)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "far.png",
            (HEIGHT, WIDTH),
            r"far.png is no unlabeled image of the run; .* labels of 4 images such as images",
        ),
        (None, (HEIGHT, WIDTH + 1), r"is 24 x 33 \(height x width\), images/im\d\d.png of the run is 24 x 32"),
    ],
)
def test_an_image_that_is_not_of_the_run_is_refused(run_file, exported, name, size, message):
    context = SimpleNamespace(frame_name=name or exported.samples[0].image, conv_mask_to_poly=False)
    with pytest.raises(StoreError, match=message):
        create(str(run_file)).detect(context, Image.new("RGB", size[::-1]))

"""Exports as their programs read them. Each test runs where its program is installed; docs/data.md has the results."""

import foreign_readers
import numpy as np
import pytest
from PIL import Image
from stage_runs import run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.exchange import export_labels, export_training_set
from pipeline.exchange.labels import open_exported
from pipeline.run_file import load_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A finished run of 10 images."""
    folder = tmp_path_factory.mktemp("foreign")
    write_sample_files(folder / "data", [f"im{i}" for i in range(10)])
    settings = load_settings(write_run_file(folder), {"num_labeled": 4})
    run_stages(settings)
    return settings


def all_pixels(settings, only_pseudo=False):
    """Image and label of each image by id."""
    exported = open_exported(settings.folder / "labels.zarr")
    index = exported.index
    found = {sample.id: (index.image(sample), exported.label(i)) for i, sample in enumerate(exported.samples)}
    human = [] if only_pseudo else index.of("labeled", "val")
    return found | {sample.id: (index.image(sample), index.mask(sample, settings.data)) for sample in human}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, (image, label) in found.items():
        assert image is None or np.array_equal(image, expected[name][0])
        assert np.array_equal(label, expected[name][1])


def objects(found):
    """Labels as YOLO numbers them: without background and abstained pixels."""
    return {k: (i, np.where((m == 0) | (m == 255), 255, m - 1).astype(np.uint8)) for k, (i, m) in found.items()}


def at_512(found):
    def resized(pixels, how):
        return np.array(Image.fromarray(pixels).resize((512, 512), how))

    bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    return {name: (resized(image, bilinear), resized(label, nearest)) for name, (image, label) in found.items()}


@pytest.mark.parametrize(
    ("module", "tool", "read", "expected"),
    [
        ("mmseg", "mmseg", foreign_readers.mmseg, dict),
        ("segmentation_models_pytorch", "smp", foreign_readers.smp, at_512),
        ("nnunetv2", "nnunet", foreign_readers.nnunet, dict),
        ("ultralytics", "ultralytics", foreign_readers.ultralytics_semantic, dict),
        ("ultralytics", "ultralytics", foreign_readers.ultralytics_segment, objects),
    ],
)
def test_a_training_program_reads_every_pixel(request, tmp_path, module, tool, read, expected):
    pytest.importorskip(module)
    settings = request.getfixturevalue("settings")
    assert_equal(read(export_training_set(settings, tool, tmp_path / "out").folder), expected(all_pixels(settings)))


@pytest.mark.parametrize(
    ("module", "name", "read", "expected"),
    [
        ("ultralytics", "yolo", foreign_readers.yolo, objects),
        ("datumaro", "cvat", foreign_readers.datumaro, dict),
        ("labelme", "labelme", foreign_readers.labelme, dict),
        ("label_studio_sdk", "label-studio", foreign_readers.label_studio, dict),
        ("fiftyone", "fiftyone", foreign_readers.fiftyone, dict),
        ("rasterio", "geotiff", foreign_readers.geotiff, dict),
    ],
)
def test_another_program_reads_every_pixel(request, tmp_path, module, name, read, expected):
    pytest.importorskip(module)
    settings = request.getfixturevalue("settings")
    folder = export_labels(settings.folder / "labels.zarr", name, tmp_path / "out").folder
    assert_equal(read(folder), expected(all_pixels(settings, only_pseudo=True)))

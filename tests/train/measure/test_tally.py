from dataclasses import replace

import numpy as np
import pytest
import tally_process
from pixel_students import FormulaStudent, of_colour
from torch import multiprocessing

from pipeline.datasets import load_samples
from pipeline.settings import EvaluateSettings
from train.data import WholeImages
from train.measure.boundary import boundary_scores
from train.measure.tally import tally_of


@pytest.fixture
def val_images(make_run):
    def make(num):
        settings = make_run(num={"labeled": 1, "unlabeled": 1, "val": num})
        index = load_samples(settings.folder / "samples.json")
        return WholeImages(index, index.of("val"), settings.data)

    return make


def test_counts_are_those_of_each_image_added_up(val_images):
    images, settings = val_images(3), EvaluateSettings(boundary_tolerance=0.02)
    tally = tally_of(FormulaStudent(of_colour), images, settings, workers=0)
    confusion, boundary = np.zeros((3, 3), int), np.zeros((4, 3))
    for areas, (image, target) in zip(tally.areas, images, strict=True):
        prediction, truth = of_colour(image[None]).argmax(dim=1)[0].numpy(), target.numpy()
        np.add.at(confusion, (truth, prediction), 1)
        correct = [((prediction == k) & (truth == k)).sum() for k in range(3)]
        assert areas.tolist() == [
            correct, np.bincount(truth.flat, minlength=3).tolist(), np.bincount(prediction.flat, minlength=3).tolist()
        ]  # fmt: skip
        scores = boundary_scores(truth, prediction.astype(np.uint8), 3, 0.02)
        boundary += np.vstack([np.nan_to_num(scores), ~np.isnan(scores[:1])])
    np.testing.assert_array_equal(tally.confusion, confusion)
    np.testing.assert_allclose(tally.boundary, boundary)
    assert boundary[3].min() > 0


def test_boundaries_are_not_measured_without_a_tolerance(val_images):
    tally = tally_of(FormulaStudent(of_colour), val_images(1), EvaluateSettings(boundary_tolerance=None), workers=0)
    assert not tally.boundary.any()


@pytest.mark.slow
def test_two_processes_count_every_image_once(val_images, tmp_path):
    images, settings = val_images(5), EvaluateSettings()
    alone = tally_of(FormulaStudent(of_colour), images, settings, workers=0)
    arguments = (2, tmp_path / "meeting", images, settings)
    other = multiprocessing.spawn(tally_process.count, (1, *arguments), nprocs=1, join=False)
    shared = tally_process.count(0, 0, *arguments)
    assert other.join(timeout=60)
    np.testing.assert_array_equal(shared.confusion, alone.confusion)
    np.testing.assert_array_equal(shared.areas, alone.areas)
    np.testing.assert_allclose(shared.boundary, alone.boundary)
    assert shared.confusion.sum() == sum(sample.height * sample.width for sample in images.samples)


def test_no_images_count_nothing(val_images):
    nothing = replace(val_images(1), samples=[])
    tally = tally_of(FormulaStudent(of_colour), nothing, EvaluateSettings(), workers=0)
    assert not tally.confusion.any()
    assert tally.areas.shape == (0, 3, 3)

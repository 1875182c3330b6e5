"""Students as an annotator: each image is predicted by its own student, at the resolution of the network's output."""

import numpy as np
import pytest
import torch

from pipeline.annotators.contract import checked_maps
from pipeline.errors import AnnotatorError
from train.annotator import StudentAnnotator
from train.students import random_network, save_network

IDS = ["a", "b", "c"]


@pytest.fixture
def annotator(make_run, tmp_path):
    """Builds an annotator from two random students."""
    settings = make_run(evaluate={"scales": [1.0]})
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        save_network(random_network("tiny", settings.data.class_names), folder)

    def build(student_of=(0, 1, 0), keeps_size=False):
        return StudentAnnotator("students", folders, dict(zip(IDS, student_of, strict=True)), settings, keeps_size)

    return build


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)


def test_maps_are_block_means_of_the_whole_predictions(annotator, images):
    maps = checked_maps(annotator(), images, IDS, 3)
    whole = checked_maps(annotator(keeps_size=True), images, IDS, 3)
    assert maps.shape == (3, 3, 8, 16)
    assert whole.shape == (3, 3, 32, 64)
    np.testing.assert_allclose(maps, whole.reshape(3, 3, 8, 4, 16, 4).mean(axis=(3, 5)), atol=1e-6)
    np.testing.assert_allclose(maps.sum(axis=1), 1, atol=1e-5)


def test_the_map_of_an_image_depends_on_its_student_and_not_on_its_batch(annotator, images):
    maps, swapped = annotator()(images, IDS), annotator((1, 1, 0))(images, IDS)
    np.testing.assert_array_equal(annotator()(images[1:2], ["b"])[0], maps[1])
    np.testing.assert_array_equal(maps[1:], swapped[1:])
    assert np.abs(maps[0] - swapped[0]).max() > 1e-3


def test_the_fingerprint_depends_on_students_assignment_and_size(annotator, tmp_path):
    own = [annotator(), annotator((1, 1, 0)), annotator(keeps_size=True)]
    torch.manual_seed(2)
    save_network(random_network("tiny", ["floor", "square", "disc"]), tmp_path / "other")
    prints = [one.fingerprint for one in (*own, annotator())]
    assert len(set(prints)) == 4
    assert annotator().fingerprint == prints[3]


def test_an_image_of_no_student_is_refused(annotator):
    annotator().prepare_images(IDS)
    with pytest.raises(AnnotatorError, match="1 of 4 images, d the first, belong to none of the students; train"):
        annotator().prepare_images([*IDS, "d"])

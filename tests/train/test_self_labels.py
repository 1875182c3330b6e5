import numpy as np
import pytest
import torch

from pipeline.datasets import load_samples
from train.data import WholeImages
from train.machine.device import Compute
from train.self_labels import Confidence, conformal_threshold, self_labels
from train.student import Student
from train.students import Network, random_network

CPU = Compute(torch.device("cpu"), torch.float32)


class ByColor(Network):
    """Logits are the logarithms of red, green and blue: the colours of an image are its probabilities."""

    def forward(self, pixels, channel_masks=None):
        mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return (pixels * std + mean).clamp(min=1e-6).log()


@pytest.fixture
def student():
    return Student(ByColor(), CPU)


def image_of(*probabilities):
    """uint8 [1, 3, 32, 32]; the top left pixels have these probabilities times 255, the others are of class 0."""
    image = torch.zeros((1, 3, 32, 32), dtype=torch.uint8)
    image[:, 0] = 255
    for column, colour in enumerate(probabilities):
        image[0, :, 0, column] = torch.tensor(colour, dtype=torch.uint8)
    return image


def labels_of(student, image, confidence, padding=0):
    targets = torch.zeros((1, 32, 32), dtype=torch.uint8)
    targets[0, 0, :padding] = 255
    return self_labels(student, image, targets, confidence)


def test_without_a_rule_the_most_probable_class_is_confident_except_on_padding():
    torch.manual_seed(0)
    student = Student(random_network("tiny", ["a", "b", "c"]), CPU)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    targets = torch.zeros((2, 64, 64), dtype=torch.uint8)
    targets[:, :, 50:] = 255
    result = self_labels(student, images, targets, Confidence("none"))
    assert torch.equal(result.labels == 255, targets == 255)
    assert torch.equal(result.is_confident, targets != 255)
    assert torch.equal(result.labels[:, :, :50], student.classes(images)[:, :, :50])
    assert student.model.training  # evaluation mode for the labels only


def test_labels_are_confident_from_the_threshold_on(student):
    image = image_of((128, 64, 63), (120, 130, 5), (10, 20, 225))
    result = labels_of(student, image, Confidence("threshold", 0.505), padding=1)
    assert result.labels[0, 0, :3].tolist() == [255, 1, 2]
    assert result.is_confident[0, 0, :3].tolist() == [False, True, True]
    stricter = labels_of(student, image, Confidence("threshold", 0.52))
    assert stricter.is_confident[0, 0, :3].tolist() == [False, False, True]


def test_conformal_confidence_needs_a_prediction_set_of_one_class(student):
    image = image_of((153, 77, 25), (230, 13, 12), (100, 80, 75))  # 0.60 0.30 0.10; 0.90 0.05 0.05; 0.39 0.31 0.29
    confident = {
        threshold: labels_of(student, image, Confidence("conformal", threshold)).is_confident[0, 0, :3].tolist()
        for threshold in (0.05, 0.5, 0.65, 0.75)
    }
    assert confident == {
        0.05: [False, False, False],  # sets are empty
        0.5: [True, True, False],
        0.65: [True, True, True],  # 0.35 <= p: one class each
        0.75: [False, True, False],  # 0.25 <= p: two, one, three
    }


def test_the_threshold_is_the_conformal_quantile_of_held_out_images(make_run, student):
    """Three images, alpha 1/2: the fractions of their pixels above the threshold sum to at most (3 + 1) / 2 - 1 = 1."""
    settings = make_run(num={"labeled": 3, "unlabeled": 1, "val": 1})
    index = load_samples(settings.folder / "samples.json")
    images = WholeImages(index, index.of("labeled"), settings.data)
    threshold = conformal_threshold(student, images, 0.5, 0)
    scores_by_image = []
    for image, target in images:
        scores = 1 - student.logits(image[None])[0].softmax(dim=0).gather(0, target[None].long())[0]
        scores_by_image.append(scores.numpy().ravel())
    above = sum((scores > threshold).mean() for scores in scores_by_image)
    smaller = np.nextafter(np.float32(threshold), np.float32(0)) * (1 - 2**-9)
    just_below = sum((scores > smaller).mean() for scores in scores_by_image)
    assert above <= 1 < just_below + 1e-9 or just_below == above
    assert above <= 1


def test_too_few_held_out_images_give_an_infinite_threshold(make_run, student):
    settings = make_run(num={"labeled": 3, "unlabeled": 1, "val": 1})
    index = load_samples(settings.folder / "samples.json")
    images = WholeImages(index, index.of("labeled"), settings.data)
    assert conformal_threshold(student, images, 0.2, 0) == float("inf")

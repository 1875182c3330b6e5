import copy

import pytest
import torch

from train.engine.average import MovingAverage
from train.machine.device import Compute
from train.student import Student
from train.students import random_network

CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student(random_network("tiny", ["a", "b"]), CPU)


def step(student):
    """Move every weight and buffer by one."""
    with torch.no_grad():
        for value in student.model.state_dict().values():
            value.add_(1)


def test_follows_closely_at_first_and_then_with_its_decay(student):
    """Weights w, w + 1, w + 2, ...: decays 0, 1/2, 2/3, then at most 0.7, 0.7."""
    average = MovingAverage(student, 0.7)
    start = copy.deepcopy(student.model.state_dict())
    expected = 0.0
    for number, decay in enumerate([0, 1 / 2, 2 / 3, 0.7, 0.7], start=1):
        step(student)
        average.update(student.model)
        expected = decay * expected + (1 - decay) * number
        for name, value in average.student.model.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, start[name] + expected)
            else:
                assert value == start[name] + number  # a counter of batches is taken over


def test_the_average_does_not_train(student):
    average = MovingAverage(student, 0.7)
    assert not average.student.model.training
    assert not any(parameter.requires_grad for parameter in average.student.model.parameters())


def test_resumes_where_it_was(student):
    average, again = MovingAverage(student, 0.9), MovingAverage(student, 0.9)
    for _ in range(3):
        step(student)
        average.update(student.model)
    again.load_state_dict(copy.deepcopy(average.state_dict()))
    step(student)
    average.update(student.model)
    again.update(student.model)
    states = (one.student.model.state_dict() for one in (average, again))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
